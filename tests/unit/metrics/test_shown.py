"""What is shown of what SQL said: totals that only grow, a bounded number of series, values that grow old."""

from everstep.metrics import families
from everstep.metrics.catalogue import Query
from everstep.metrics.snapshot import EMPTY, Reading, Snapshot
from everstep.metrics.tally import Tally
from everstep.store.metrics import Total

FINISHED = 3


def finished(n: int, *, outcome: int = 1, bucket: int = 2, seconds: float = 0.0) -> Total:
    return Total(FINISHED, "q", "w", outcome, bucket, n, seconds)


def samples(rows: list[Total], name: str) -> dict[tuple[str, ...], float]:
    """Values by label values, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families.totals(rows, families.Names())
        for sample in family.samples
        if sample.name == name
    }


def test_a_total_is_shown_as_the_database_has_it():
    tally = Tally()
    tally.update([finished(1000, seconds=5.0)])
    tally.update([finished(1003, seconds=6.0)])
    assert tally.shown() == [finished(1003, seconds=6.0)]


def test_a_total_that_steps_back_with_its_database_does_not_step_back_here():
    tally = Tally()
    tally.update([finished(1000, seconds=50.0)])
    tally.update([finished(990, seconds=49.0)])
    assert tally.shown() == [finished(1000, seconds=50.0)]
    tally.update([finished(995, seconds=49.5)])
    assert tally.shown() == [finished(1005, seconds=50.5)]


def test_a_total_whose_row_is_gone_keeps_its_value():
    tally = Tally()
    tally.update([finished(5)])
    tally.update([])
    assert tally.shown() == [finished(5)]


def test_totals_of_the_apps_own_workflows_are_shown_before_their_first_event():
    tally = Tally([("q", "w")])
    for name in ("started", "rescued"):
        assert samples(tally.shown(), f"everstep_workflows_{name}_total") == {("q", "w"): 0.0}
    assert samples(tally.shown(), "everstep_workflows_finished_total") == {
        (outcome, "q", "w"): 0.0 for outcome in ("succeeded", "failed", "cancelled", "dead_letter")
    }
    assert samples(tally.shown(), "everstep_queue_wait_seconds_count") == {("q",): 0.0}
    tally.update([finished(5, bucket=0)])
    outcomes = samples(tally.shown(), "everstep_workflows_finished_total")
    assert outcomes["succeeded", "q", "w"] == 5.0


def test_a_histogram_is_cumulative_and_its_last_bucket_is_its_count():
    rows = [
        finished(3, bucket=0, seconds=0.01),
        finished(2, bucket=2, seconds=0.04),
        finished(1, bucket=18, seconds=700_000.0),
    ]
    buckets = samples(rows, "everstep_workflow_duration_seconds_bucket")
    by_limit = {limit: value for (limit, _outcome, _workflow), value in buckets.items()}
    assert by_limit["0.005"] == 3.0
    assert by_limit["0.01"] == 3.0
    assert by_limit["0.025"] == 5.0
    assert by_limit["604800.0"] == 5.0
    assert by_limit["+Inf"] == 6.0
    counts = samples(rows, "everstep_workflow_duration_seconds_count")
    assert list(counts.values()) == [6.0]
    sums = samples(rows, "everstep_workflow_duration_seconds_sum")
    assert list(sums.values()) == [700_000.05]


def test_names_beyond_the_budget_are_shown_together():
    names = families.Names({"queue": 2})
    rows = [{"queue": f"q{n}", "value": float(n)} for n in range(1, 6)]
    (oldest,) = families.gauges(Query.OLDEST, rows, names)
    shown = {sample.labels["queue"]: sample.value for sample in oldest.samples}
    # The oldest of what is left over, not its sum.
    assert shown == {"q1": 1.0, "q2": 2.0, families.OTHER: 3.0}
    assert names.merged() == {"queue": 3}
    # A name keeps its place when others come first the next time.
    (oldest,) = families.gauges(Query.OLDEST, reversed(rows), names)
    assert {s.labels["queue"] for s in oldest.samples} == {"q1", "q2", families.OTHER}


def reading(name: str, until: float) -> Reading:
    return Reading(f"\n{name} 1.0\n".encode(), until)


def test_a_reading_disappears_when_it_is_too_old_and_the_others_stay():
    readings = {Query.OPEN: reading("a", until=40.0), Query.OLDEST: reading("b", until=100.0)}
    snapshot = Snapshot(held_until=90.0, readings=readings)
    assert b"\na 1.0" in snapshot.text(39.9)
    assert b"\na 1.0" not in snapshot.text(40.0)
    assert b"\nb 1.0" in snapshot.text(40.0)


def test_nothing_global_is_shown_once_the_ticket_has_run_out():
    snapshot = Snapshot(held_until=30.0, readings={Query.OPEN: reading("a", until=100.0)})
    assert snapshot.text(29.9)
    assert snapshot.text(30.0) == b""
    assert EMPTY.text(0.0) == b""
