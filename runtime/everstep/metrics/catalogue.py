"""The one table of all metrics: exporter, reference page and board come from it.

Two scopes. A local metric is counted in the process that shows it. A global one is read from SQL and shown by
one pod only, the holder of the `metrics` ticket. The columns a global metric's statement returns are its
labels and `value`; totals are rows of everstep.metric_total (docs/decisions/metrics-totals.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

# The same bounds as everstep.bucket() in 0001_engine.sql: a duration is put into its bucket when it is written.
BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
    300.0, 900.0, 3600.0, 21600.0, 86400.0, 604800.0,
)  # fmt: skip
LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
LAG_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
COUNT_BOUNDS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


Merge = Callable[[Iterable[float]], float]


class Type(StrEnum):
    """As Prometheus knows them."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Scope(StrEnum):
    """Who shows a metric: every pod its own, or one pod for all."""

    LOCAL = "local"
    GLOBAL = "global"


class Query(StrEnum):
    """Statements of metrics.sql that global metrics come from."""

    OPEN = "metrics_open"
    OLDEST = "metrics_oldest"
    QUEUES = "metrics_queues"
    WORKERS = "metrics_workers"
    TOTALS = "metrics_totals"


class Transition(IntEnum):
    """What a row of metric_delta and metric_total counts; stored in its column `kind`."""

    STARTED = 1
    CLAIMED = 2
    FINISHED = 3
    RESCUED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One family. `merge` says what one series for several rows shows: names beyond the budget share one."""

    name: str
    type: Type
    scope: Scope
    help: str
    labels: tuple[str, ...] = ()
    query: Query | None = None
    transition: Transition | None = None
    bounds: tuple[float, ...] = ()
    merge: Merge = sum


def _gauge(name: str, labels: str, query: Query, help_: str, *, merge: Merge = sum) -> Metric:
    return Metric(
        name=name, type=Type.GAUGE, scope=Scope.GLOBAL, help=help_,
        labels=tuple(labels.split()), query=query, merge=merge,
    )  # fmt: skip


def _total(name: str, labels: str, transition: Transition, help_: str) -> Metric:
    return Metric(
        name=name, type=Type.COUNTER, scope=Scope.GLOBAL, help=help_,
        labels=tuple(labels.split()), query=Query.TOTALS, transition=transition,
    )  # fmt: skip


def _times(name: str, labels: str, transition: Transition, help_: str) -> Metric:
    return Metric(
        name=name, type=Type.HISTOGRAM, scope=Scope.GLOBAL, help=help_, bounds=BOUNDS,
        labels=tuple(labels.split()), query=Query.TOTALS, transition=transition,
    )  # fmt: skip


def _local(
    name: str, type_: Type, help_: str, *, labels: str = "", bounds: tuple[float, ...] = ()
) -> Metric:
    return Metric(
        name=name, type=type_, scope=Scope.LOCAL, help=help_,
        labels=tuple(labels.split()), bounds=bounds,
    )  # fmt: skip


WORKFLOWS = _gauge(
    "everstep_workflows", "queue status", Query.OPEN,
    "Workflows that are not finished, by status: queued, running or waiting.",
)  # fmt: skip
WORKFLOWS_BY_VERSION = _gauge(
    "everstep_workflows_by_version", "version", Query.OPEN,
    "Workflows that are not finished, by the version they are pinned to. Those not yet claimed have none.",
)  # fmt: skip
OLDEST_READY = _gauge(
    "everstep_queue_oldest_ready_timestamp_seconds", "queue", Query.OLDEST,
    "Since when the workflow that has waited longest for a worker could have been claimed (Unix time). "
    "Absent while nothing waits.",
    merge=min,
)  # fmt: skip
QUEUE_PAUSED = _gauge(
    "everstep_queue_paused", "queue", Query.QUEUES,
    "1 while the queue is paused: nothing is claimed from it.",
    merge=max,
)  # fmt: skip
WORKERS = _gauge(
    "everstep_workers", "state version", Query.WORKERS,
    "Workers by state: live, draining, or dead within the last day.",
)  # fmt: skip
STARTED = _total(
    "everstep_workflows_started_total", "queue workflow", Transition.STARTED, "Workflows started.",
)  # fmt: skip
FINISHED = _total(
    "everstep_workflows_finished_total", "queue workflow outcome", Transition.FINISHED,
    "Workflows finished, by outcome: succeeded, failed, cancelled or dead_letter.",
)  # fmt: skip
RESCUED = _total(
    "everstep_workflows_rescued_total", "queue workflow", Transition.RESCUED,
    "Times a workflow was taken from a dead worker so that another runs it on.",
)  # fmt: skip
DURATION = _times(
    "everstep_workflow_duration_seconds", "workflow outcome", Transition.FINISHED,
    "From the start of a workflow to its end, waiting included.",
)  # fmt: skip
QUEUE_WAIT = _times(
    "everstep_queue_wait_seconds", "queue", Transition.CLAIMED,
    "From the moment a workflow could be claimed to its claim.",
)  # fmt: skip

CLAIM_DURATION = _local(
    "everstep_claim_duration_seconds", Type.HISTOGRAM,
    "How long a claim took, from sending the statement to its reply.", bounds=LATENCY_BOUNDS,
)  # fmt: skip
CLAIM_WORKFLOWS = _local(
    "everstep_claim_workflows", Type.HISTOGRAM, "Workflows brought by one claim.",
    bounds=COUNT_BOUNDS,
)  # fmt: skip
COMMIT_DURATION = _local(
    "everstep_commit_duration_seconds", Type.HISTOGRAM,
    "How long a group commit took, repetitions after passing faults included.",
    bounds=LATENCY_BOUNDS,
)  # fmt: skip
COMMIT_ROWS = _local(
    "everstep_commit_rows", Type.HISTOGRAM,
    "Rows of one group commit: checkpoints, completions and parks.", bounds=COUNT_BOUNDS,
)  # fmt: skip
SLOTS = _local("everstep_slots", Type.GAUGE, "Workflows this worker runs at a time, at most.")
SLOTS_USED = _local("everstep_slots_used", Type.GAUGE, "Workflows this worker runs now.")
LEASE_HELD = _local(
    "everstep_lease_held", Type.GAUGE, "1 while this worker's lease holds, by its own clock."
)
LOOP_LAG = _local(
    "everstep_event_loop_lag_seconds", Type.HISTOGRAM,
    "How much later than asked the event loop woke a timer: code that blocks it shows here.",
    bounds=LAG_BOUNDS,
)  # fmt: skip
BUILD_INFO = _local(
    "everstep_build_info", Type.GAUGE, "Always 1; what runs in this pod.",
    labels="app version everstep python",
)  # fmt: skip
TICKET_HELD = _local(
    "everstep_metrics_ticket_held", Type.GAUGE,
    "1 in the pod that shows the global metrics. Their sum over all pods is 1.",
)  # fmt: skip
QUERY_DURATION = _local(
    "everstep_metrics_query_duration_seconds", Type.GAUGE,
    "How long a statement of the sampler took the last time.", labels="query",
)  # fmt: skip
QUERY_INTERVAL = _local(
    "everstep_metrics_query_interval_seconds", Type.GAUGE,
    "How often a statement of the sampler runs: a slow one runs less often.", labels="query",
)  # fmt: skip
QUERY_SUCCESS = _local(
    "everstep_metrics_query_last_success_timestamp_seconds", Type.GAUGE,
    "When a statement of the sampler last succeeded (Unix time).", labels="query",
)  # fmt: skip
QUERY_ERRORS = _local(
    "everstep_metrics_query_errors_total", Type.COUNTER,
    "Failures of the sampler's statements. Its metrics keep their last value for four intervals, "
    "then disappear.", labels="query",
)  # fmt: skip
NAMES_MERGED = _local(
    "everstep_metrics_names_merged", Type.GAUGE,
    "Values of a label that are shown together as __other__, because there are too many.",
    labels="label",
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = (
    WORKFLOWS, WORKFLOWS_BY_VERSION, OLDEST_READY, QUEUE_PAUSED, WORKERS,
    STARTED, FINISHED, RESCUED, DURATION, QUEUE_WAIT,
    SLOTS, SLOTS_USED, LEASE_HELD, CLAIM_DURATION, CLAIM_WORKFLOWS, COMMIT_DURATION, COMMIT_ROWS,
    LOOP_LAG, BUILD_INFO, TICKET_HELD,
    QUERY_DURATION, QUERY_INTERVAL, QUERY_SUCCESS, QUERY_ERRORS, NAMES_MERGED,
)  # fmt: skip


def of_query(query: Query) -> tuple[Metric, ...]:
    """The metrics a statement feeds."""
    return tuple(metric for metric in CATALOGUE if metric.query is query)
