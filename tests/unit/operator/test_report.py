"""Conditions and status: constant reasons, sentences for people, and nothing that moves alone."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from unit.operator.worlds import NOW, app, at_rest, body, done_job, known, running, version

from everstep_operator.events import events
from everstep_operator.observed import Observed, Pod, State, Trouble, Unknown, Unmigrated
from everstep_operator.planning.planner import plan
from everstep_operator.report import report, report_invalid
from everstep_operator.resource import DurableApp

UNREACHABLE = Unknown("Unreachable", "the database does not answer")


def told(
    of: DurableApp, observed: Observed, *refused: str, later: timedelta = timedelta(0)
) -> dict[str, Any]:
    now = NOW + later
    return report(of, observed, plan(of, observed, now), refused, now)


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next(c for c in status["conditions"] if c["type"] == kind)
    return found["status"], found["reason"]


def test_at_rest_all_is_well_and_says_so() -> None:
    status = told(app(), at_rest(app()))
    assert {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]} == {
        "DatabaseReachable": ("True", "Connected"),
        "Draining": ("False", "NothingToDrain"),
        "Ready": ("True", "CurrentVersionAvailable"),
        "Reconciling": ("False", "UpToDate"),
        "SchemaMigrated": ("True", "Migrated"),
        "Stalled": ("False", "UpToDate"),
    }
    assert status["observedGeneration"] == 7
    assert all(c["observedGeneration"] == 7 for c in status["conditions"])
    assert (status["currentVersion"], status["replicas"], status["readyReplicas"]) == ("v2", 3, 3)
    assert "everstep.dev/version=v2" in status["selector"]


def test_an_equal_world_gives_an_equal_status_however_late() -> None:
    first = told(app(), at_rest(app()))
    assert told(app(status=first), at_rest(app()), later=timedelta(days=3)) == first


def test_a_condition_keeps_its_time_until_its_status_turns() -> None:
    first = told(app(), at_rest(app()))
    lost = replace(at_rest(app()), database=UNREACHABLE)
    second = told(app(status=first), lost, later=timedelta(hours=1))
    times = {c["type"]: c["lastTransitionTime"] for c in second["conditions"]}
    assert times["DatabaseReachable"] == "2026-11-22T13:00:00Z"
    assert times["SchemaMigrated"] == "2026-11-22T12:00:00Z"


def test_before_the_first_promotion_nothing_is_ready() -> None:
    status = told(app(), Observed(Unmigrated()))
    assert condition(status, "Draining") == ("False", "NothingToDrain")
    assert condition(status, "Ready") == ("False", "NoCurrentVersion")
    assert condition(status, "Reconciling") == ("True", "WaitingForMigration")
    assert status["targetVersion"] == "v2"
    assert "currentVersion" not in status


def test_what_the_cluster_refused_is_shown_word_for_word() -> None:
    status = told(app(), at_rest(app()), "ApplyDeployment: spec.template.spec.foo: unknown")
    assert condition(status, "Stalled") == ("True", "RejectedByCluster")
    assert condition(status, "Reconciling")[0] == "False"
    stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
    assert "spec.template.spec.foo" in stalled["message"]


def test_versions_are_sorted_and_count_their_workflows() -> None:
    rows = (
        version("v2", State.CURRENT, workers=3, running=2, queued=0, parked=5),
        version("v10", State.DRAINING, parked=1, sample=("a",)),
        version("v1", State.RETIRED),
    )
    observed = replace(at_rest(app()), database=known("v2", *rows))
    entries = told(app(), observed)["versions"]
    assert [v["version"] for v in entries] == ["v10", "v2"]
    assert (entries[1]["running"], entries[1]["queued"], entries[1]["parked"]) == (2, 0, 5)
    assert entries[1]["readyReplicas"] == 3


def test_while_the_database_is_unknown_the_last_numbers_stay() -> None:
    row = version("v2", State.CURRENT, workers=3, running=2)
    first = told(app(), replace(at_rest(app()), database=known("v2", row)))
    lost = replace(
        at_rest(app()), database=UNREACHABLE, deployments=(running(app(), "v2", available=1),)
    )
    second = told(app(status=first), lost)
    assert second["currentVersion"] == "v2"
    assert second["database"] == first["database"]
    assert second["versions"][0]["running"] == 2
    assert second["versions"][0]["readyReplicas"] == 1
    assert condition(second, "DatabaseReachable") == ("False", "Unreachable")


def test_scaled_to_zero_on_request_is_ready() -> None:
    none = app(replicas=0)
    observed = replace(at_rest(none), deployments=(running(none, "v2", 0),))
    assert condition(told(none, observed), "Ready") == ("True", "ScaledToZero")


def test_an_unreadable_spec_leaves_every_other_word() -> None:
    first = told(app(), at_rest(app()))
    spoiled = {**body(), "status": first}
    status = report_invalid(spoiled, "spec.drain: must be an object", NOW)
    assert condition(status, "Stalled") == ("True", "InvalidSpec")
    assert condition(status, "Ready") == ("True", "CurrentVersionAvailable")
    assert status["versions"] == first["versions"]


def test_events_tell_a_change_once() -> None:
    first = told(app(), at_rest(app()))
    assert events({**body(), "status": first}, first, (), NOW) == []
    lost = told(app(status=first), replace(at_rest(app()), database=UNREACHABLE))
    said = events({**body(), "status": first}, lost, (), NOW)
    assert ("Warning", "Unreachable") in [(e["type"], e["reason"]) for e in said]
    assert len({e["metadata"]["name"] for e in said}) == len(said)


def test_what_is_reconciling_and_stalled_at_once_is_one_warning() -> None:
    """Both conditions carry the sentence; the same Event twice would count as Normal."""
    first = told(app(), at_rest(app()))
    broken = app("localhost/orders:v3", status=first)
    trouble = Pod("p", "v3", "worker", trouble=Trouble("Crashing", "ends with code 2"))
    jobs = (done_job(broken),)
    rest = replace(at_rest(app()), jobs=jobs, pods=(trouble,))
    rest = replace(rest, deployments=(*rest.deployments, running(broken, "v3", ready=0)))
    said = events({**body(), "status": first}, told(broken, rest), (), NOW)
    assert [e["type"] for e in said if e["reason"] == "WorkersFailing"] == ["Warning"]


def test_a_first_look_without_a_secret_says_it_once_and_drains_nothing() -> None:
    status = told(app(), Observed(Unknown("SecretMissing", "Secret orders-db does not exist")))
    assert condition(status, "Draining") == ("False", "NothingToDrain")
    said = events(body(), status, (), NOW)
    assert [e["reason"] for e in said] == ["SecretMissing", "WaitingForDatabase"]
