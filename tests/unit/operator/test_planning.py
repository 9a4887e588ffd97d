"""Every arrow of the rollout, every failure before the promotion, and unknown as no zero."""

from dataclasses import replace
from datetime import timedelta

import pytest
from unit.operator.worlds import (
    NOW,
    app,
    at_rest,
    done_job,
    known,
    rolling,
    running,
    stored,
    version,
)

from everstep_operator.observed import (
    Deployment,
    Job,
    JobState,
    Observed,
    Pod,
    State,
    Trouble,
    Unknown,
    Unmigrated,
    Version,
    Worker,
)
from everstep_operator.planning.actions import (
    Action,
    ApplyDeployment,
    CreateJob,
    DeclareDead,
    DeleteDeployment,
    DeleteJob,
    DeleteRevision,
    MarkDrained,
    RetireVersion,
    ScaleDeployment,
    SetRouting,
    StoreRevision,
)
from everstep_operator.planning.planner import DRAINING, IDLE, ROLLING, plan
from everstep_operator.reasons import Reason

APP = app()
V1 = version("v1", State.CURRENT, workers=3)
UNREACHABLE = Unknown("Unreachable", "the database does not answer")
DESTRUCTIVE = (ScaleDeployment, DeleteDeployment, DeleteRevision, SetRouting, RetireVersion)


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_at_rest_there_is_nothing_to_do() -> None:
    made = plan(APP, at_rest(APP), NOW)
    assert made.actions == ()
    assert (made.rollout.reason, made.interval) == (Reason.UP_TO_DATE, IDLE)


# --- the arrows of a rollout, in order -----------------------------------------------------


def test_a_new_object_begins_with_its_migration() -> None:
    made = plan(APP, Observed(Unmigrated()), NOW)
    assert kinds(made.actions) == ["CreateJob"]
    assert made.migration.reason is Reason.MIGRATION_RUNNING
    assert made.rollout.reason is Reason.MIGRATING


def test_nothing_starts_while_the_migration_runs() -> None:
    made = plan(APP, Observed(Unmigrated(), jobs=(done_job(APP, JobState.RUNNING),)), NOW)
    assert made.actions == ()
    assert made.interval == ROLLING


def test_a_finished_migration_lets_the_workers_start() -> None:
    made = plan(APP, Observed(known(None), jobs=(done_job(APP),)), NOW)
    assert kinds(made.actions) == ["StoreRevision", "ApplyDeployment"]
    assert made.rollout.reason is Reason.STARTING_WORKERS


def test_the_template_is_stored_before_a_pod_of_it_runs() -> None:
    actions = plan(APP, Observed(known(None), jobs=(done_job(APP),)), NOW).actions
    assert isinstance(actions[0], StoreRevision)
    assert actions[0].body["data"]["template"] == APP.spec.template


@pytest.mark.parametrize(
    ("ready", "workers", "awaited"),
    [
        (0, 0, "0 of 3 replicas"),
        (2, 3, "2 of 3 replicas"),
        (3, 0, "0 of 3 workers"),
        (3, 2, "2 of 3 workers"),
    ],
)
def test_promotion_waits_for_pods_and_for_their_rows_in_sql(
    ready: int, workers: int, awaited: str
) -> None:
    row = version("v2", State.PENDING, workers=workers)
    made = plan(APP, rolling(APP, known("v1", V1, row), running(APP, "v2", ready=ready)), NOW)
    assert made.actions == ()
    assert made.rollout.reason is Reason.STARTING_WORKERS
    assert awaited in made.rollout.message


def test_a_version_whose_workers_report_is_promoted_at_the_revision_that_was_read() -> None:
    row = version("v2", State.PENDING, workers=3)
    made = plan(APP, rolling(APP, known("v1", V1, row), running(APP, "v2")), NOW)
    assert made.actions == (SetRouting("v2", 5),)


def test_an_app_of_no_replicas_is_promoted_without_workers() -> None:
    none = app(replicas=0)
    observed = Observed(
        known(None),
        deployments=(running(none, "v2", 0),),
        jobs=(done_job(none),),
        revisions=(stored(none, "v2"),),
    )
    assert kinds(plan(none, observed, NOW).actions) == ["SetRouting"]


def test_the_older_version_is_never_touched_before_the_promotion() -> None:
    made = plan(APP, rolling(APP, known("v1", V1)), NOW)
    assert [a.version for a in made.actions if isinstance(a, ApplyDeployment)] == ["v2"]


def test_a_rollback_promotes_the_draining_version_again() -> None:
    draining = version("v2", State.DRAINING, workers=3, running=4)
    made = plan(APP, rolling(APP, known("v1", V1, draining), running(APP, "v2")), NOW)
    assert SetRouting("v2", 5) in made.actions


# --- failures before the promotion ---------------------------------------------------------


def broken_job(**report: object) -> Observed:
    failed = done_job(APP, JobState.FAILED)
    pod = Pod("p", "v2", "migration", job=failed.name, report=report, finished_at=NOW)
    return replace(rolling(APP, known("v1", V1)), jobs=(failed,), pods=(pod,))


def test_a_failed_migration_names_file_statement_and_sqlstate() -> None:
    observed = broken_job(
        code="MigrationFailed",
        file="0002_status.sql",
        statement=3,
        sqlstate="42701",
        message='column "status" exists',
    )
    made = plan(APP, observed, NOW + timedelta(hours=1))
    assert made.actions == ()
    assert made.migration.reason is Reason.MIGRATION_FAILED
    assert made.migration.stalled
    assert made.rollout.stalled
    for fact in ("0002_status.sql", "statement 3", "SQLSTATE 42701", "kubectl delete job"):
        assert fact in made.migration.message


@pytest.mark.parametrize("code", ["DatabaseUnreachable", "LockTimeout"])
def test_a_passing_fault_of_a_migration_is_tried_again_after_a_while(code: str) -> None:
    observed = broken_job(code=code, message="later")
    assert plan(APP, observed, NOW + timedelta(seconds=59)).actions == ()
    assert kinds(plan(APP, observed, NOW + timedelta(seconds=60)).actions) == ["DeleteJob"]


@pytest.mark.parametrize("code", ["MigrationFailed", "HistoryDiverged", "Dirty", "BadFiles"])
def test_a_lasting_fault_of_a_migration_waits_for_somebody(code: str) -> None:
    assert plan(APP, broken_job(code=code), NOW + timedelta(days=1)).actions == ()


def test_a_migration_pod_that_cannot_start_is_shown_at_once() -> None:
    job = done_job(APP, JobState.RUNNING)
    trouble = Trouble("ImagePullFailed", "image x cannot be pulled")
    pod = Pod("p", "v2", "migration", job=job.name, trouble=trouble)
    observed = replace(rolling(APP, known("v1", V1)), jobs=(job,), pods=(pod,))
    made = plan(APP, observed, NOW)
    assert made.actions == ()
    assert made.migration.reason is Reason.MIGRATION_BLOCKED
    assert "cannot be pulled" in made.rollout.message


def test_a_worker_that_cannot_start_stalls_the_rollout_with_its_reason() -> None:
    pod = Pod("p", "v2", "worker", trouble=Trouble("Crashing", "ends with code 2"))
    observed = rolling(APP, known("v1", V1), running(APP, "v2", ready=0))
    made = plan(APP, replace(observed, pods=(pod,)), NOW)
    assert made.actions == ()
    assert (made.rollout.reason, made.rollout.stalled) == (Reason.WORKERS_FAILING, True)
    assert "ends with code 2" in made.rollout.message


def fresh_pods(name: str, count: int) -> tuple[Pod, ...]:
    return tuple(Pod(f"p-{n}", name, "worker", created_at=NOW) for n in range(count))


def test_workers_that_never_report_stall_the_rollout_after_the_deadline() -> None:
    observed = rolling(APP, known("v1", V1), running(APP, "v2"))
    observed = replace(observed, pods=fresh_pods("v2", 3))
    assert not plan(APP, observed, NOW + timedelta(seconds=600)).rollout.stalled
    assert plan(APP, observed, NOW + timedelta(seconds=601)).rollout.stalled


@pytest.mark.parametrize("pods", [0, 2, 3])
def test_a_rollback_to_an_old_deployment_has_the_whole_deadline_again(pods: int) -> None:
    """The Deployment of v2 is a week old and has just been scaled up."""
    drained = version("v2", State.DRAINED, drained_since=NOW - timedelta(minutes=4))
    old = running(APP, "v2", ready=0, available=0, created_at=NOW - timedelta(days=7))
    observed = replace(rolling(APP, known("v1", V1, drained), old), pods=fresh_pods("v2", pods))
    made = plan(APP, observed, NOW + timedelta(seconds=5))
    assert (made.rollout.reason, made.rollout.stalled) == (Reason.STARTING_WORKERS, False)


@pytest.mark.parametrize(
    ("reason", "gone"), [("ImagePullFailed", True), ("Crashing", False), (None, False)]
)
def test_a_superseded_migration_goes_only_if_it_never_began(reason: str | None, gone: bool) -> None:
    """Somebody mended a wrong image: the Job of the wrong one would go on trying for an hour."""
    wrong = Job("orders-migrate-wrong", "v9", JobState.RUNNING)
    trouble = Trouble(reason, "x") if reason else None
    pod = Pod("p", "v9", "migration", job=wrong.name, trouble=trouble)
    rest = at_rest(APP)
    made = plan(APP, replace(rest, jobs=(*rest.jobs, wrong), pods=(pod,)), NOW)
    assert [a.name for a in made.actions if isinstance(a, DeleteJob)] == [wrong.name] * gone


def test_a_migration_that_left_no_tables_is_explained() -> None:
    made = plan(APP, Observed(Unmigrated(), jobs=(done_job(APP),)), NOW)
    assert made.actions == ()
    assert made.rollout.stalled
    assert "migrations.urlFrom" in made.rollout.message


def test_a_job_that_was_deleted_after_success_is_not_run_again() -> None:
    name = done_job(APP).name
    status = {"migration": {"job": name, "version": "v2", "state": "Migrated"}}
    made = plan(app(status=status), replace(at_rest(APP), jobs=()), NOW)
    assert made.actions == ()
    assert made.migration.reason is Reason.MIGRATED


def test_a_migration_whose_tables_are_gone_is_run_again_once_its_job_is_deleted() -> None:
    """That is what the message tells people to do; the status alone must not stand in the way."""
    status = {"migration": {"job": done_job(APP).name, "version": "v2", "state": "Migrated"}}
    stuck = plan(app(status=status), Observed(Unmigrated(), jobs=(done_job(APP),)), NOW)
    assert "delete the Job" in stuck.rollout.message
    assert kinds(plan(app(status=status), Observed(Unmigrated()), NOW).actions) == ["CreateJob"]


# --- unknown is not zero -------------------------------------------------------------------

LEAVING = [
    version("v0", State.DRAINED, drained_since=NOW - timedelta(days=9)),
    version("v0", State.RETIRED),
    version("v0", State.DRAINING),
    version("v0", State.PENDING),
]


@pytest.mark.parametrize("row", LEAVING, ids=lambda row: str(row.state))
def test_what_a_known_database_would_change_an_unknown_one_leaves(row: Version) -> None:
    small = app(replicas=1, status={"currentVersion": "v2"})
    observed = replace(at_rest(APP), deployments=(running(small, "v2", 3), running(small, "v0")))
    certain = replace(observed, database=known("v2", version("v2", State.CURRENT), row))
    assert plan(small, certain, NOW).actions
    made = plan(small, replace(observed, database=UNREACHABLE), NOW)
    assert not [a for a in made.actions if isinstance(a, DESTRUCTIVE)]
    assert all(
        a.body["spec"]["replicas"] == 3 for a in made.actions if isinstance(a, ApplyDeployment)
    )
    assert made.rollout.reason is Reason.DATABASE_UNKNOWN


def test_an_unknown_database_promotes_nothing() -> None:
    status = {"currentVersion": "v1"}
    made = plan(app(status=status), rolling(APP, UNREACHABLE, running(APP, "v2")), NOW)
    assert made.actions == ()


def test_an_unknown_database_starts_no_migration() -> None:
    made = plan(APP, Observed(UNREACHABLE), NOW)
    assert made.actions == ()
    assert made.migration.reason is Reason.MIGRATION_PENDING
    assert made.rollout.reason is Reason.DATABASE_UNKNOWN


def test_while_unknown_the_serving_version_still_grows() -> None:
    big = app("localhost/orders:v2", status={"currentVersion": "v1"}, replicas=5)
    made = plan(big, rolling(big, UNREACHABLE, running(big, "v2")), NOW)
    assert [(a.replicas) for a in made.actions if isinstance(a, ScaleDeployment)] == [5]


# --- draining ------------------------------------------------------------------------------


def leaving(row: Version, *deployments: Deployment) -> Observed:
    rest = at_rest(APP)
    return replace(
        rest,
        database=known("v2", version("v2", State.CURRENT, workers=3), row),
        deployments=(*rest.deployments, *deployments),
        revisions=(*rest.revisions, stored(APP, "v1")),
    )


@pytest.mark.parametrize("held", ["running", "queued", "parked"])
def test_a_version_with_open_workflows_keeps_its_workers(held: str) -> None:
    row = replace(version("v1", State.DRAINING, sample=("order-7",)), **{held: 1})
    made = plan(APP, leaving(row, running(APP, "v1", 2)), NOW)
    assert made.actions == ()
    assert made.drain.reason is Reason.WAITING_FOR_WORKFLOWS
    assert f"1 {held}" in made.drain.message
    assert "order-7" in made.drain.message
    assert made.interval == DRAINING


def test_a_version_without_open_workflows_is_asked_whether_it_is_drained() -> None:
    row = version("v1", State.DRAINING, draining_since=NOW - timedelta(seconds=28))
    made = plan(APP, leaving(row, running(APP, "v1")), NOW)
    assert made.actions == (MarkDrained("v1"),)
    assert made.interval == 3.0


def drained(age: timedelta) -> Version:
    return version("v1", State.DRAINED, drained_since=NOW - age)


def test_a_drained_version_shrinks_after_its_delay() -> None:
    before = plan(APP, leaving(drained(timedelta(minutes=4, seconds=59)), running(APP, "v1")), NOW)
    assert before.actions == ()
    assert before.drain.reason is Reason.WAITING_FOR_DELAY
    assert before.interval == ROLLING
    after = plan(APP, leaving(drained(timedelta(minutes=5)), running(APP, "v1")), NOW)
    assert [(type(a), a.replicas) for a in after.actions if isinstance(a, ScaleDeployment)] == [
        (ScaleDeployment, 0)
    ]


def test_a_drained_version_goes_when_its_last_pod_is_gone_and_retires_after_that() -> None:
    old = drained(timedelta(days=2))
    assert plan(APP, leaving(old, running(APP, "v1", 0, present=1)), NOW).actions == ()
    gone = plan(APP, leaving(old, running(APP, "v1", 0)), NOW)
    assert kinds(gone.actions) == ["DeleteDeployment"]
    assert plan(APP, leaving(old), NOW).actions == (RetireVersion("v1"),)


def test_a_drained_version_can_come_back_until_its_delete_delay() -> None:
    made = plan(APP, leaving(drained(timedelta(hours=23)), running(APP, "v1", 0)), NOW)
    assert made.actions == ()


@pytest.mark.parametrize("state", [State.DRAINING, State.DRAINED, State.RETIRED])
def test_a_version_that_has_open_workflows_again_gets_its_workers_back(state: State) -> None:
    row = version("v1", state, queued=1, drained_since=NOW - timedelta(days=9))
    scaled = plan(APP, leaving(row, running(APP, "v1", 0)), NOW)
    assert [a.replicas for a in scaled.actions if isinstance(a, ScaleDeployment)] == [3]
    deleted = plan(APP, leaving(row), NOW)
    assert [a.version for a in deleted.actions if isinstance(a, ApplyDeployment)] == ["v1"]


def test_open_workflows_without_any_template_are_reported_as_stranded() -> None:
    observed = replace(leaving(version("v1", State.DRAINING, queued=1)), revisions=())
    made = plan(APP, replace(observed, revisions=(stored(APP, "v2"),)), NOW)
    assert (made.drain.reason, made.drain.stalled) == (Reason.STRANDED, True)


# --- what never served ---------------------------------------------------------------------


@pytest.mark.parametrize("row", [(), (version("v3", State.PENDING),)], ids=["no row", "pending"])
def test_a_superseded_version_that_never_served_goes_at_once(row: tuple[Version, ...]) -> None:
    rest = at_rest(APP)
    observed = replace(
        rest,
        database=known("v2", version("v2", State.CURRENT, workers=3), *row),
        deployments=(*rest.deployments, running(APP, "v3")),
    )
    assert kinds(plan(APP, observed, NOW).actions) == ["DeleteDeployment"]


@pytest.mark.parametrize(
    ("row", "retired"),
    [
        (version("v3", State.PENDING), True),
        (version("v3", State.PENDING, workers=1), False),
        (version("v3", State.PENDING, queued=1), False),
        (version("v3", State.RAMPING), False),
        (version("v3", State.RETIRED), False),
    ],
)
def test_a_row_of_a_version_that_never_served_is_retired_once_nothing_stands_behind_it(
    row: Version, retired: bool
) -> None:
    rest = at_rest(APP)
    observed = replace(rest, database=known("v2", version("v2", State.CURRENT, workers=3), row))
    assert plan(APP, observed, NOW).actions == ((RetireVersion("v3"),) if retired else ())
    on_its_way = app("localhost/orders:v3")
    assert RetireVersion("v3") not in plan(on_its_way, observed, NOW).actions


def test_a_schema_that_vanished_is_no_first_installation() -> None:
    served = app(status={"currentVersion": "v2"})
    assert plan(served, Observed(Unmigrated()), NOW).drain.reason is Reason.DRAIN_UNKNOWN
    assert plan(APP, Observed(Unmigrated()), NOW).drain.reason is Reason.NOTHING_TO_DRAIN


@pytest.mark.parametrize("state", ["current", "draining", "drained"])
def test_a_version_that_served_and_lost_its_row_is_kept(state: str) -> None:
    rest = at_rest(APP)
    observed = replace(rest, deployments=(*rest.deployments, running(APP, "v1")))
    restored = app(status={"versions": [{"version": "v1", "state": state}]})
    assert plan(restored, observed, NOW).actions == ()


# --- everything else -----------------------------------------------------------------------


def test_an_edit_that_is_no_code_updates_the_deployment_in_place() -> None:
    edited = app(replicas=4)
    made = plan(edited, at_rest(APP), NOW)
    assert kinds(made.actions) == ["ApplyDeployment"]
    assert made.rollout.reason is Reason.RESIZING


def test_a_changed_template_under_one_version_replaces_the_stored_one() -> None:
    old = app(version="v2", image="localhost/orders:other")
    made = plan(APP, replace(at_rest(APP), revisions=(stored(old, "v2"),)), NOW)
    assert kinds(made.actions) == ["StoreRevision"]
    both = (stored(old, "v2"), stored(APP, "v2", 2))
    made = plan(APP, replace(at_rest(APP), revisions=both), NOW)
    assert made.actions == (DeleteRevision(both[0].name, "v2 has a newer template"),)


@pytest.mark.parametrize("change", [{"settled": False}, {"applied": "other"}, {"replicas": 2}])
def test_a_deployment_that_somebody_changed_is_applied_again(change: dict[str, object]) -> None:
    rest = at_rest(APP)
    changed = replace(rest.deployments[0], **change)
    assert kinds(plan(APP, replace(rest, deployments=(changed,)), NOW).actions) == [
        "ApplyDeployment"
    ]


def test_a_pod_that_is_gone_is_declared_dead_before_anything_else() -> None:
    workers = (Worker("a", "v2", "live"), Worker("b", "v2", "dead"), Worker("c", "v2", "live"))
    row = version("v2", State.CURRENT, workers=3)
    observed = replace(
        at_rest(APP), database=known("v2", row, workers=workers), gone_pods=frozenset("ab")
    )
    assert plan(APP, observed, NOW).actions == (DeclareDead("a"),)


def test_suspend_plans_and_writes_nothing() -> None:
    made = plan(app(suspend=True), Observed(known(None), jobs=(done_job(APP),)), NOW)
    assert made.actions == ()
    assert made.rollout.reason is Reason.SUSPENDED
    assert "ApplyDeployment" in made.rollout.message


def test_jobs_of_earlier_rollouts_are_kept_for_their_logs_but_not_all() -> None:
    old = tuple(
        Job(f"old-{n}", "v1", JobState.COMPLETE, created_at=NOW - timedelta(days=n))
        for n in range(1, 5)
    )
    made = plan(APP, replace(at_rest(APP), jobs=(*old, done_job(APP))), NOW)
    assert [a.name for a in made.actions if isinstance(a, DeleteJob)] == ["old-3", "old-4"]


def test_the_migration_job_is_created_once() -> None:
    made = plan(APP, Observed(Unmigrated()), NOW)
    assert isinstance(made.actions[0], CreateJob)
    assert made.actions[0].body["metadata"]["name"] == done_job(APP).name
