"""The board as data: what it shows, row by row. scripts/dashboards.py makes Grafana's JSON of it.

Every query names its metric through the catalogue. Gauges that one pod shows for all are read with max or
min over pods, so that the moment in which two pods overlap does not count twice. The variables match everything
where a label is missing, so that the board also works without Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass

from everstep.metrics import catalogue as c
from everstep.metrics.catalogue import Metric


@dataclass(frozen=True)
class Panel:
    """A graph: queries with their legends, and the unit they are in."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False


def of(metric: Metric, suffix: str = "", **matchers: str) -> str:
    """The series of a metric that the variables select."""
    chosen = {"namespace": "$namespace", "app": "$app"}
    if "queue" in metric.labels:
        chosen["queue"] = "$queue"
    matches = [f'{label}=~"{value}"' for label, value in {**chosen, **matchers}.items()]
    return f"{metric.name}{suffix}{{{', '.join(matches)}}}"


def shared(metric: Metric, by: str) -> str:
    """A gauge of the whole application, by some of its labels: the most that any pod shows, added up over apps."""
    return f"sum by ({by}) (max by (namespace, app, {by}) ({of(metric)}))"


def rate(metric: Metric, by: str, suffix: str = "", **matchers: str) -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({of(metric, suffix, **matchers)}[$__rate_interval]))"


def quantiles(metric: Metric, by: str = "", legend: str = "") -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    labels = f"{by}, le" if by else "le"
    return tuple(
        (f"histogram_quantile({q}, {rate(metric, labels, '_bucket')})", f"{name} {legend}".strip())
        for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


def mean(metric: Metric) -> str:
    """The mean of a histogram's observations."""
    sums, counts = (f"sum(rate({of(metric, s)}[$__rate_interval]))" for s in ("_sum", "_count"))
    return f"{sums} / ({counts} > 0)"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Backlog": (
        Panel(
            "Open workflows",
            "short",
            "Workflows that are not finished, by queue and status. Queued ones wait for a worker; waiting ones "
            "sleep or wait for something, and cost only a row.",
            ((shared(c.WORKFLOWS, "queue, status"), "{{queue}} {{status}}"),),
        ),
        Panel(
            "Oldest ready workflow",
            "s",
            "How long the workflow that has waited longest for a worker has been waiting, by queue. It grows while "
            "nothing is claimed, which the wait of claimed workflows cannot show. No line: nothing waits.",
            ((f"time() - min by (queue) ({of(c.OLDEST_READY)})", "{{queue}}"),),
        ),
        Panel(
            "Paused queues",
            "short",
            "1 while a queue is paused: nothing is claimed from it.",
            ((f"max by (queue) ({of(c.QUEUE_PAUSED)})", "{{queue}}"),),
        ),
        Panel(
            "Started and finished",
            "ops",
            "Workflows per second. The backlog grows while more are started than finished.",
            ((rate(c.STARTED, "queue"), "{{queue}} started"), (rate(c.FINISHED, "queue"), "{{queue}} finished")),
        ),
    ),
    "Throughput and outcomes": (
        Panel(
            "Finished by outcome",
            "ops",
            "Workflows finished per second, by outcome. A dead letter crashed its worker too often in a row.",
            ((rate(c.FINISHED, "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Not succeeded, by workflow",
            "ops",
            "Workflows per second that failed, were cancelled or became dead letters.",
            (
                (
                    rate(c.FINISHED, "workflow, outcome", outcome="failed|cancelled|dead_letter"),
                    "{{workflow}} {{outcome}}",
                ),
            ),
        ),
    ),
    "Queue wait": (
        Panel(
            "Queue wait, all queues",
            "s",
            "From the moment a workflow could be claimed to its claim: half, 95 % and 99 % waited less.",
            quantiles(c.QUEUE_WAIT),
        ),
        Panel(
            "Queue wait by queue",
            "s",
            "The wait that 95 % of the claimed workflows of a queue stayed below.",
            (quantiles(c.QUEUE_WAIT, "queue", "{{queue}}")[1],),
        ),
    ),
    "Duration": (
        Panel(
            "Duration, all workflows",
            "s",
            "From start to end, waiting included, of workflows that finished in the interval.",
            quantiles(c.DURATION),
        ),
        Panel(
            "Duration by workflow and outcome",
            "s",
            "The duration that 95 % of a workflow's executions stayed below.",
            (quantiles(c.DURATION, "workflow, outcome", "{{workflow}} {{outcome}}")[1],),
        ),
    ),
    "Workers by version": (
        Panel(
            "Workers",
            "short",
            "Workers by state and version. A dead one is shown for a day.",
            ((shared(c.WORKERS, "state, version"), "{{version}} {{state}}"),),
        ),
        Panel(
            "Workflows pinned to a version",
            "short",
            "What an old version still has to finish before it can go. Workflows not yet claimed belong to none.",
            ((shared(c.WORKFLOWS_BY_VERSION, "version"), "{{version}}"),),
        ),
        Panel(
            "Slots in use",
            "percentunit",
            "Share of the workers' slots that run a workflow. It reaches 1 before a backlog builds up.",
            ((f"sum({of(c.SLOTS_USED)}) / sum({of(c.SLOTS)})", "used"),),
        ),
        Panel(
            "Event loop lag",
            "s",
            "How late the event loop of a pod wakes its timers. Code that blocks the loop shows here first.",
            quantiles(c.LOOP_LAG, "pod", "{{pod}}")[2:],
        ),
    ),
    "Rescues": (
        Panel(
            "Rescued workflows",
            "ops",
            "Workflows per second that were taken from a dead worker. A burst follows the death of a pod; a steady "
            "rate means that something kills workers.",
            ((rate(c.RESCUED, "queue, workflow"), "{{queue}} {{workflow}}"),),
        ),
        Panel(
            "Pods without a lease",
            "short",
            "Pods whose lease has run out: they claim and write nothing, and others run their workflows.",
            ((f"count({of(c.LEASE_HELD)} == 0) or vector(0)", "pods"),),
        ),
    ),
    "Commit and claim": (
        Panel(
            "Commit latency",
            "s",
            "How long a group commit takes. Every step waits for one, so this is what Postgres costs.",
            quantiles(c.COMMIT_DURATION),
        ),
        Panel(
            "Claim latency",
            "s",
            "How long a claim takes, from sending the statement to its reply.",
            quantiles(c.CLAIM_DURATION),
        ),
        Panel(
            "Rows per commit, workflows per claim",
            "short",
            "Mean size of a group commit and of a claim: they grow with the load, which is what keeps it cheap.",
            ((mean(c.COMMIT_ROWS), "rows"), (mean(c.CLAIM_WORKFLOWS), "workflows")),
        ),
    ),
    "The metrics themselves": (
        Panel(
            "Age of the global metrics",
            "s",
            "Seconds since each statement of the sampler last succeeded. Values older than four intervals are not "
            "shown.",
            ((f"time() - max by (query) ({of(c.QUERY_SUCCESS)})", "{{query}}"),),
        ),
        Panel(
            "Sampler errors",
            "ops",
            "Failures of the sampler's statements per second; the log of the pod that holds the ticket says why.",
            ((rate(c.QUERY_ERRORS, "query"), "{{query}}"),),
        ),
        Panel(
            "Ticket holders",
            "short",
            "Pods that show the global metrics: 1 for each app, or for a moment 0 while the ticket passes on.",
            ((f"sum({of(c.TICKET_HELD)})", "pods"),),
        ),
        Panel(
            "What runs",
            "short",
            "Pods by app version and version of everstep.",
            ((f"count by (version, everstep) ({of(c.BUILD_INFO)})", "{{version}} on {{everstep}}"),),
        ),
    ),
}  # fmt: skip
