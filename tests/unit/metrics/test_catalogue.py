"""The catalogue is the one table: the SQL, the exposition, the page and the board agree with it."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from everstep.metrics import families
from everstep.metrics.catalogue import BOUNDS, CATALOGUE, Query, Scope, Type, of_query
from everstep.metrics.local import LocalMetrics
from everstep.metrics.snapshot import rendered
from everstep.store.metrics import Total
from everstep.store.statements import statements

ROOT = Path(__file__).parents[3]


def exposed_names(text: str) -> set[str]:
    """Names as the catalogue has them: prometheus_client's parser takes `_total` off a counter's."""
    found = text_string_to_metric_families(text)
    return {f.name + "_total" if f.type == "counter" else f.name for f in found}


def test_names_are_unique_and_follow_the_conventions_of_prometheus():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch(r"everstep_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is Type.COUNTER)
        assert bool(metric.bounds) == (metric.type is Type.HISTOGRAM)
        assert metric.help.endswith(".")
        assert "le" not in metric.labels


def test_global_metrics_come_from_a_statement_and_local_ones_from_none():
    for metric in CATALOGUE:
        assert (metric.query is not None) == (metric.scope is Scope.GLOBAL)
        assert (metric.transition is not None) == (metric.query is Query.TOTALS)
    for query in Query:
        assert query in statements("everstep")
        assert of_query(query), f"{query} feeds no metric"


def test_no_statement_of_the_sampler_looks_at_history():
    sampled = [sql.decode() for name, sql in statements("everstep").items() if name in set(Query)]
    assert len(sampled) == len(Query)
    for sql in sampled:
        assert not re.search(r"everstep\.(workflows?|checkpoint|steps|message)\b", sql)


def test_the_bounds_are_those_the_engine_sorts_durations_by():
    schema = files("everstep.migrations").joinpath("0001_engine.sql").read_text()
    body = re.search(r"FUNCTION everstep\.bucket.*?ARRAY\[(.*?)\]", schema, re.DOTALL)
    assert body is not None
    assert tuple(float(bound) for bound in body[1].split(",")) == BOUNDS


def test_a_worker_exposes_exactly_the_local_metrics():
    metrics = LocalMetrics("shop", "v1")
    metrics.watch(slots=3, used=lambda: 1, lease_held=lambda: True)
    text = metrics.render().decode()
    local = {metric.name for metric in CATALOGUE if metric.scope is Scope.LOCAL}
    assert exposed_names(text) == local
    assert "_created" not in text
    for line in ("everstep_slots 3.0", "everstep_slots_used 1.0", "everstep_lease_held 1.0"):
        assert f"\n{line}\n" in text


def test_two_workers_in_a_process_do_not_share_counters():
    one, other = LocalMetrics("shop", "v1"), LocalMetrics("shop", "v1")
    one.claimed(7, 0.1)
    assert b"everstep_claim_workflows_sum 7.0" in one.render()
    assert b"everstep_claim_workflows_sum 0.0" in other.render()


def test_every_global_metric_has_its_labels_whatever_they_hold():
    awkward = 'a "quoted"\\ name\nof two lines ✓'
    rows = {
        Query.OPEN: [
            {"queue": awkward, "status": "queued", "version": None, "value": 2.0},
            {"queue": None, "status": None, "version": "v1", "value": 2.0},
        ],
        Query.OLDEST: [{"queue": awkward, "value": 1.5}],
        Query.QUEUES: [{"queue": awkward, "value": 0.0}],
        Query.WORKERS: [{"state": "live", "version": "v1", "value": 1.0}],
    }
    totals = [Total(kind, awkward, awkward, kind == 3, 2, 1, 0.02) for kind in (1, 2, 3, 4)]
    names = families.Names()
    made = [f for query, found in rows.items() for f in families.gauges(query, found, names)]
    made += families.totals(totals, names)
    assert all(family.samples for family in made)
    text = rendered(made).decode()
    assert exposed_names(text) == {m.name for m in CATALOGUE if m.scope is Scope.GLOBAL}
    labels = {m.name.removesuffix("_total"): set(m.labels) for m in CATALOGUE}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[family.name]
            assert sample.labels.get("queue", awkward) == awkward


@pytest.mark.parametrize("script", ["metrics_reference.py", "dashboards.py"])
def test_what_is_generated_is_fresh(script):
    command = [sys.executable, str(ROOT / "scripts" / script), "--check"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "runtime")},
    )
    assert done.returncode == 0, done.stderr
