"""From rows to Prometheus families, as the catalogue says: no knowledge of any one metric is here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from everstep.metrics.catalogue import Metric, Query, Type, of_query
from everstep.store.metrics import Total
from everstep.store.models import Ending

OTHER = "__other__"
BUDGET = {"queue": 200, "workflow": 200, "version": 50}
OUTCOMES = {0: "", **{ending.value: ending.name.lower() for ending in Ending}}

Values = tuple[str, ...]


class Names:
    """Keeps the number of series bounded: names beyond a label's budget are shown together as `__other__`."""

    def __init__(self, budget: Mapping[str, int] = BUDGET) -> None:
        self._budget = budget
        self._kept: dict[str, set[str]] = {label: set() for label in budget}
        self._merged: dict[str, set[str]] = {label: set() for label in budget}

    def shown(self, label: str, name: str) -> str:
        """The name itself, or OTHER. First come, first served; a name keeps its place."""
        kept = self._kept.get(label)
        if kept is None or name in kept:
            return name
        if len(kept) < self._budget[label]:
            kept.add(name)
            return name
        # Only as many as say that the budget is far exceeded: names are the user's, without limit.
        if len(merged := self._merged[label]) < 10 * self._budget[label]:
            merged.add(name)
        return OTHER

    def merged(self) -> dict[str, int]:
        """How many names share OTHER, by label."""
        return {label: len(names) for label, names in self._merged.items()}


def gauges(query: Query, rows: Iterable[Mapping[str, Any]], names: Names) -> tuple[Family, ...]:
    """A row feeds each metric of its query all of whose labels it has."""
    kept = list(rows)
    return tuple(_gauge(metric, kept, names) for metric in of_query(query))


def totals(rows: Iterable[Total], names: Names) -> tuple[Family, ...]:
    """Counters and histograms from rows of metric_total."""
    kept = list(rows)
    return tuple(
        _counter(metric, kept, names)
        if metric.type is Type.COUNTER
        else _times(metric, kept, names)
        for metric in of_query(Query.TOTALS)
    )


def _gauge(metric: Metric, rows: list[Mapping[str, Any]], names: Names) -> Family:
    found: dict[Values, list[float]] = {}
    for row in rows:
        if all(row[label] is not None for label in metric.labels):
            values = tuple(names.shown(label, row[label]) for label in metric.labels)
            found.setdefault(values, []).append(row["value"])
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for values, numbers in sorted(found.items()):
        family.add_metric(values, metric.merge(numbers))
    return family


def _counter(metric: Metric, rows: list[Total], names: Names) -> Family:
    found: dict[Values, int] = {}
    for row in rows:
        if row.kind == metric.transition:
            values = _values(metric, row, names)
            found[values] = found.get(values, 0) + row.n
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for values, n in sorted(found.items()):
        family.add_metric(values, n)
    return family


def _times(metric: Metric, rows: list[Total], names: Names) -> Family:
    counts: dict[Values, list[int]] = {}
    seconds: dict[Values, float] = {}
    for row in rows:
        # A duration of an unwelcome outcome begins with the first one: its empty buckets are many.
        if row.kind == metric.transition and (row.n or row.outcome in (0, Ending.SUCCEEDED)):
            values = _values(metric, row, names)
            buckets = counts.setdefault(values, [0] * (len(metric.bounds) + 1))
            buckets[min(row.bucket, len(metric.bounds))] += row.n
            seconds[values] = seconds.get(values, 0.0) + row.seconds
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    limits = [*map(str, metric.bounds), "+Inf"]
    for values, buckets in sorted(counts.items()):
        pairs = list(zip(limits, map(float, accumulate(buckets)), strict=True))
        family.add_metric(values, pairs, seconds[values])
    return family


def _values(metric: Metric, row: Total, names: Names) -> Values:
    known = {"queue": row.queue, "workflow": row.name, "outcome": OUTCOMES[row.outcome]}
    return tuple(names.shown(label, known[label]) for label in metric.labels)
