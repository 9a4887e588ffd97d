"""The reference page of all metrics, from the catalogue. scripts/metrics_reference.py writes it."""

from __future__ import annotations

from everstep.metrics.catalogue import BOUNDS, CATALOGUE, Metric, Scope
from everstep.metrics.families import BUDGET, OTHER
from everstep.metrics.sampler import SHARE, SHOWN_INTERVALS, TICKET_SECONDS, Sampler

_INTRO = """# Metrics

<!-- Written by scripts/metrics_reference.py from runtime/everstep/metrics/catalogue.py. -->

Each worker serves `/metrics` on its port (`EVERSTEP_PORT`) in the Prometheus text format, from a thread of its
own and without asking the database, so it answers while Postgres is down or the event loop is blocked. The
operator has metrics of its own, on its own port.
"""

_GLOBAL = """## Of the whole application

Read from Postgres by **one** pod at a time, the one that holds the `metrics` ticket ({ticket:g} s, renewed). When
it goes, another takes over and the old series end. So a total is the sum over pods, and a gauge is read with
`max by (…)`.

- They are taken every {interval:g} s or a little more often; a statement that takes long runs less often, so that it uses
  at most a {share}th of the time of one connection. If it fails, its metrics keep their last value for {shown} intervals and then
  disappear: never a false zero.
- Totals count each event exactly once and survive restarts, failovers of the database and the deletion of old
  workflows: after a fold, `sum(everstep_workflows_finished_total)` is the number of workflows that ever finished.
  A series starts at the total so far, so `rate` and `increase` see what happens from then on.
- Histograms have these buckets, in seconds: {bounds}.
- At most {budget}; further names share `{other}`.
"""

_LOCAL = """## Of one pod

Counted in the process; they begin at 0 with it.
"""


def page() -> str:
    """The whole page as Markdown."""
    about_global = _GLOBAL.format(
        ticket=TICKET_SECONDS,
        interval=Sampler.interval,
        share=SHARE,
        shown=SHOWN_INTERVALS,
        bounds=", ".join(f"{bound:g}" for bound in BOUNDS),
        budget=", ".join(f"{limit} values of `{label}`" for label, limit in BUDGET.items()),
        other=OTHER,
    )
    return "\n".join([_INTRO, about_global, *_table(Scope.GLOBAL), _LOCAL, *_table(Scope.LOCAL)])


def _table(scope: Scope) -> list[str]:
    rows = [_row(metric) for metric in CATALOGUE if metric.scope is scope]
    return ["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""]


def _row(metric: Metric) -> str:
    labels = " ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {_type(metric)} | {labels} | {metric.help} |"


def _type(metric: Metric) -> str:
    return "gauge (Unix time)" if metric.name.endswith("_timestamp_seconds") else metric.type.value
