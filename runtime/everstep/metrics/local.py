"""Pod-local metrics: counted in the process, no SQL; and the whole page, local and global, as it is scraped."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as Family

from everstep.engine.heartbeat import boottime
from everstep.metrics import catalogue
from everstep.metrics.catalogue import Metric
from everstep.metrics.snapshot import EMPTY, Snapshot, rendered


class LocalMetrics:
    """One worker's metrics, in a registry of its own: several workers in a process do not meet."""

    def __init__(self, app: str, version: str) -> None:
        self.app, self.version = app, version
        self.snapshot = EMPTY
        self._registry = CollectorRegistry(auto_describe=False)
        self._claim_duration = self._histogram(catalogue.CLAIM_DURATION)
        self._claim_workflows = self._histogram(catalogue.CLAIM_WORKFLOWS)
        self._commit_duration = self._histogram(catalogue.COMMIT_DURATION)
        self._commit_rows = self._histogram(catalogue.COMMIT_ROWS)
        self._loop_lag = self._histogram(catalogue.LOOP_LAG)
        self._query_duration = self._gauge(catalogue.QUERY_DURATION)
        self._query_interval = self._gauge(catalogue.QUERY_INTERVAL)
        self._query_success = self._gauge(catalogue.QUERY_SUCCESS)
        self._query_errors = Counter(*_described(catalogue.QUERY_ERRORS), registry=self._registry)
        self._names_merged = self._gauge(catalogue.NAMES_MERGED)
        self._gauge(catalogue.BUILD_INFO).labels(
            app, version, _own_version(), platform.python_version()
        ).set(1)
        self._show(catalogue.TICKET_HELD, lambda: self.snapshot.held(boottime()))

    def claimed(self, workflows: int, seconds: float) -> None:
        self._claim_duration.observe(seconds)
        self._claim_workflows.observe(workflows)

    def committed(self, rows: int, seconds: float) -> None:
        self._commit_duration.observe(seconds)
        self._commit_rows.observe(rows)

    def woke_late(self, seconds: float) -> None:
        """The event loop woke a timer that much later than asked."""
        self._loop_lag.observe(seconds)

    def watch(self, *, slots: int, used: Callable[[], int], lease_held: Callable[[], bool]) -> None:
        """Where to read the gauges of a worker when they are asked for; called from the exporter's thread."""
        self._show(catalogue.SLOTS, lambda: slots)
        self._show(catalogue.SLOTS_USED, used)
        self._show(catalogue.LEASE_HELD, lease_held)

    def publish(self, snapshot: Snapshot) -> None:
        """Show these global metrics from now on."""
        self.snapshot = snapshot

    def queried(self, statement: str, *, seconds: float, interval: float) -> None:
        """A statement of the sampler succeeded."""
        self._query_duration.labels(statement).set(seconds)
        self._query_interval.labels(statement).set(interval)
        self._query_success.labels(statement).set(time.time())
        self._query_errors.labels(statement)  # shown at 0, so that the first failure is an increase

    def query_failed(self, statement: str) -> None:
        self._query_errors.labels(statement).inc()

    def names_merged(self, counts: dict[str, int]) -> None:
        for label, count in counts.items():
            self._names_merged.labels(label).set(count)

    def render(self) -> bytes:
        """The page at /metrics. Runs no SQL; any thread may call it."""
        return rendered(self._families()) + self.snapshot.text(boottime())

    def _families(self) -> Iterable[Family]:
        for family in self._registry.collect():
            # The library adds a series with the time of creation to each series; nobody asks for them.
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(*_described(metric), registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(*_described(metric), buckets=metric.bounds, registry=self._registry)

    def _show(self, metric: Metric, read: Callable[[], float]) -> None:
        self._gauge(metric).set_function(read)


def _described(metric: Metric) -> tuple[str, str, tuple[str, ...]]:
    return metric.name, metric.help, metric.labels


def _own_version() -> str:
    try:
        return version("everstep")
    except PackageNotFoundError:
        return "source"
