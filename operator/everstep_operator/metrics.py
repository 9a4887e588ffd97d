"""The operator's own metrics, in a registry of its own.

Gauges of an object disappear with it; versions are bounded by what is live, so are the series.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from everstep_operator.kube import Kube
from everstep_operator.observed import Known, Observed

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_APP = ("namespace", "app")


@dataclass(slots=True)
class Metrics:
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    reconciles: Counter = field(init=False)
    duration: Histogram = field(init=False)
    queue: Gauge = field(init=False)
    leader: Gauge = field(init=False)
    stale: Gauge = field(init=False)
    writes: Counter = field(init=False)
    database: Gauge = field(init=False)
    workflows: Gauge = field(init=False)
    replicas: Gauge = field(init=False)
    conditions: Gauge = field(init=False)

    def __post_init__(self) -> None:
        per_version = (*_APP, "version")
        self.reconciles = self._counter("reconciles", "Objects handled, by result.", "result")
        self.duration = Histogram(
            "everstep_operator_reconcile_seconds",
            "Time of one look.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue = self._gauge("queue_depth", "Objects due and not yet handled.")
        self.leader = self._gauge("leader", "1 in the replica that acts.")
        self.stale = self._gauge("watch_stale_seconds", "How long the watch has lagged the API.")
        self.writes = self._counter("writes", "Write requests sent.", "verb", "resource")
        self.database = self._gauge("database_up", "1 if it answered.", *_APP)
        self.workflows = self._gauge("version_workflows", "Open workflows.", *per_version, "state")
        self.replicas = self._gauge("version_replicas", "Worker pods.", *per_version, "kind")
        self.conditions = self._gauge("condition", "1 if true.", *_APP, "type", "reason")
        self._gauge("build_info", "Always 1.", "version").labels(_own_version()).set(1)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"everstep_operator_{name}", says, labels, registry=self.registry)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"everstep_operator_{name}", says, labels, registry=self.registry)

    @contextmanager
    def measured(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.reconciles.labels("error").inc()
            raise
        else:
            self.reconciles.labels("success").inc()
        finally:
            self.duration.observe(time.monotonic() - started)

    def show(self, namespace: str, app: str, observed: Observed, status: Mapping[str, Any]) -> None:
        self.forget(namespace, app)
        up = isinstance(observed.database, Known)
        self.database.labels(namespace, app).set(up)
        for entry in status.get("versions") or ():
            where = (namespace, app, entry["version"])
            for state in ("running", "queued", "parked"):
                if state in entry:
                    self.workflows.labels(*where, state).set(entry[state])
        for found in observed.deployments:
            where = (namespace, app, found.version)
            self.replicas.labels(*where, "desired").set(found.replicas)
            self.replicas.labels(*where, "ready").set(found.available)
        for condition in status.get("conditions") or ():
            labels = (namespace, app, condition["type"], condition["reason"])
            self.conditions.labels(*labels).set(condition["status"] == "True")

    def forget(self, namespace: str, app: str) -> None:
        for gauge in (self.database, self.workflows, self.replicas, self.conditions):
            gauge.remove_by_labels({"namespace": namespace, "app": app})

    def count_writes(self, kube: Kube) -> None:
        """Hand over what the client counted since the last time."""
        for (verb, plural), count in kube.writes.items():
            self.writes.labels(verb, plural).inc(count)
        kube.writes.clear()

    def render(self) -> bytes:
        return generate_latest(self.registry)


def _own_version() -> str:
    try:
        return version("everstep")
    except PackageNotFoundError:
        return "unknown"
