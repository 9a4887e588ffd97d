from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner
from support.schedules import HandClock, utc
from support.waiting import BLOCKED_BY, eventually

from everstep import App, CatchUp, Filter, Overlap, UsageError, WorkflowCancelledError, sync
from everstep.cli.schedule import command
from everstep.engine.scheduler import Scheduler
from everstep.store.connection import Link, Passing
from everstep.store.fsck import fsck
from everstep.store.schedules import Schedules

NOON = utc("2026-05-01T12:00")
HOUR = timedelta(hours=1)
MakeScheduler = Callable[..., Scheduler]


@pytest.fixture
def clock(sql) -> HandClock:
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    return HandClock(sql, NOON + timedelta(minutes=30))


@pytest.fixture
async def scheduler(database) -> AsyncIterator[MakeScheduler]:
    """`scheduler(app, version=)`: what a worker of this app would run, to be run round by round."""
    async with AsyncExitStack() as stack:

        def make(app: App, version: str = "v1") -> Scheduler:
            link = Link(database, "test scheduler")
            stack.push_async_callback(link.close)
            return Scheduler(
                link,
                list(app.schedules.values()),
                app=app.name,
                schema="everstep",
                version=version,
                announce=lambda: None,
            )

        yield make


def hourly(**options) -> App:
    """An app with one schedule, `hourly`, of a workflow `report`."""
    app = App("test")

    @app.workflow(name="report")
    async def report(tick: datetime) -> str:
        return tick.isoformat()

    options = {"every": HOUR, "name": "hourly"} | options
    app.schedule(options.pop("cron", None), **options)(report)
    return app


async def settle(scheduler: Scheduler) -> None:
    while await scheduler.run_once():
        pass


def started(sql) -> list[datetime]:
    """The ticks of `hourly` that have a workflow, from the ids."""
    return [
        row.tick
        for row in sql(
            "SELECT to_timestamp(split_part(id, ':', 3)::bigint) AS tick FROM everstep.workflow "
            "WHERE id LIKE 'sched:hourly:%%' AND id NOT LIKE '%%:now:%%' ORDER BY 1",
            {},
        )
    ]


def finish(sql) -> None:
    """As if a worker had finished every open workflow."""
    sql("WITH r AS (DELETE FROM everstep.run RETURNING id, epoch) UPDATE everstep.workflow w SET status = 1, "
        "finished_at = everstep.clock(), finished_epoch = 1, version = 'v1', output = 'null', "
        "finished_by = gen_random_uuid() FROM r WHERE r.id = w.id")  # fmt: skip


def row(sql):
    (found,) = sql("SELECT * FROM everstep.schedules WHERE name = 'hourly'")
    return found


def hours(*counts: float) -> list[datetime]:
    return [NOON + timedelta(hours=n) for n in counts]


# -- ticks ---------------------------------------------------------------------------------------


async def test_a_tick_starts_a_workflow_that_gets_the_tick(database, client, worker):
    app = App("test")

    @app.schedule(every=timedelta(seconds=1), name="beat")
    async def beat(tick: datetime) -> float:
        return tick.timestamp()

    await worker(app)
    handle = await eventually(lambda: first_of(client, "sched:beat:"), within=30)
    assert await handle.result(timeout=30) == int(handle.id.rpartition(":")[2])


async def first_of(client, prefix):
    found = await client.list(Filter(id_prefix=prefix))
    return client.handle_named(found[0].id) if found else None


async def test_before_its_first_tick_a_schedule_starts_nothing(sql, clock, scheduler):
    one = scheduler(hourly())
    await settle(one)
    clock.set(NOON + timedelta(minutes=59, seconds=59))
    await settle(one)
    assert started(sql) == []
    clock.set(NOON + HOUR)
    await settle(one)
    assert started(sql) == hours(1)
    assert (row(sql).last_at, row(sql).next_at) == tuple(hours(1, 2))


async def test_a_tick_is_counted_once_in_the_metrics(sql, clock, scheduler):
    one = scheduler(hourly())
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    await settle(one)
    assert sql("SELECT queue, name, n FROM everstep.metric_delta WHERE kind = 1") == [
        ("default", "report", 1)
    ]


async def test_the_pause_between_rounds_ends_at_the_next_tick(sql, clock, scheduler):
    one = scheduler(hourly())
    await one.run_once()
    assert one.interval == 1.0
    clock.set(NOON + HOUR - timedelta(seconds=0.4))
    await one.run_once()
    assert one.interval == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("policy", "ticks"),
    [
        (CatchUp.SKIP, []),
        (CatchUp.LATEST, [5]),
        (CatchUp.all(3), [3, 4, 5]),
        (CatchUp.all(100), [1, 2, 3, 4, 5]),
    ],
)
async def test_after_an_outage_the_policy_decides(sql, clock, scheduler, policy, ticks):
    one = scheduler(hourly(catch_up=policy))
    await settle(one)
    clock.set(NOON + timedelta(hours=5.5))
    await settle(one)
    assert started(sql) == hours(*ticks)
    clock.set(NOON + timedelta(hours=6))
    await settle(one)
    assert started(sql) == hours(*ticks, 6)


async def test_with_overlap_allow_every_tick_starts_a_workflow(sql, clock, scheduler):
    one = scheduler(hourly())
    await settle(one)
    for _ in range(3):
        clock.move(hours=1)
        await settle(one)
    assert started(sql) == hours(1, 2, 3)
    assert row(sql).skipped_at is None


async def test_with_overlap_skip_a_tick_passes_while_the_previous_workflow_is_open(
    sql, clock, scheduler
):
    one = scheduler(hourly(overlap=Overlap.SKIP))
    await settle(one)
    for _ in range(3):
        clock.move(hours=1)
        await settle(one)
    assert started(sql) == hours(1)
    assert [row(sql).last_at, row(sql).skipped_at, row(sql).next_at] == hours(1, 3, 4)
    finish(sql)
    clock.move(hours=1)
    await settle(one)
    assert started(sql) == hours(1, 4)


async def test_with_overlap_skip_one_of_several_missed_ticks_is_started(sql, clock, scheduler):
    one = scheduler(hourly(overlap=Overlap.SKIP, catch_up=CatchUp.all(10)))
    await settle(one)
    clock.move(hours=5)
    await settle(one)
    assert started(sql) == hours(1)
    assert row(sql).skipped_at == hours(5)[0]


async def test_with_overlap_cancel_previous_only_the_newest_workflow_stays(
    sql, clock, scheduler, client
):
    one = scheduler(hourly(overlap=Overlap.CANCEL_PREVIOUS))
    await settle(one)
    for _ in range(3):
        clock.move(hours=1)
        await settle(one)
    assert started(sql) == hours(1, 2, 3)
    statuses = [r.status for r in sql("SELECT status FROM everstep.workflows ORDER BY id")]
    assert statuses == ["cancelled", "cancelled", "queued"]
    first = client.handle_named(f"sched:hourly:{int(hours(1)[0].timestamp())}")
    with pytest.raises(WorkflowCancelledError):
        await first.result(timeout=30)


async def test_cancelling_the_previous_workflow_reaches_its_children(sql, clock, scheduler):
    one = scheduler(hourly(overlap=Overlap.CANCEL_PREVIOUS))
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    sql("INSERT INTO everstep.workflow (id, name, queue, parent_id, codec, input, created_at) "
        "SELECT 'child', 'c', 'default', min(id), 1, '{}', everstep.clock() FROM everstep.workflow")  # fmt: skip
    sql("INSERT INTO everstep.run (id, name, queue, ready_at) VALUES ('child', 'c', 'default', everstep.clock())")  # fmt: skip
    clock.move(hours=1)
    await settle(one)
    assert sql.one("SELECT status FROM everstep.workflows WHERE id = 'child'") == "cancelled"


async def test_previous_workflow_is_cancelled_only_if_the_next_one_starts(
    sql, clock, scheduler, monkeypatch
):
    one, other = (scheduler(hourly(overlap=Overlap.CANCEL_PREVIOUS)) for _ in range(2))
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    clock.move(hours=1)
    tick = Schedules.tick

    async def lost(self, connection, planned):
        monkeypatch.setattr(Schedules, "tick", tick)
        await asyncio.to_thread(
            sql, "SELECT pg_terminate_backend(%s)", [connection.info.backend_pid]
        )
        return await tick(self, connection, planned)

    monkeypatch.setattr(Schedules, "tick", lost)
    with pytest.raises(Passing):
        await one.run_once()
    assert [r.status for r in sql("SELECT status FROM everstep.workflows")] == ["queued"]
    await settle(other)
    await settle(one)
    assert started(sql) == hours(1, 2)
    assert sql.one("SELECT count(*) FROM everstep.workflows WHERE status = 'cancelled'") == 1


async def test_a_schedule_that_cannot_be_computed_stands_still_and_stops_no_other(
    sql, clock, scheduler, caplog
):
    app = hourly()
    app.schedule(every=HOUR, name="other")(app.workflows["report"])
    one = scheduler(app)
    await settle(one)
    sql("UPDATE everstep.schedule SET cron = 'nonsense', every = NULL WHERE name = 'other'")
    clock.move(hours=1)
    await settle(one)
    await settle(one)
    assert started(sql) == hours(1)
    assert caplog.text.count("schedule other stands still") == 1


# -- what the code declares, and what operators change -------------------------------------------


async def test_an_operators_change_lasts_until_the_code_declares_something_else(
    sql, clock, scheduler, client
):
    await settle(scheduler(hourly()))
    await client.schedules.set("hourly", cron="15 * * * *", overlap=Overlap.SKIP)
    assert row(sql).edited
    assert row(sql).next_at == NOON + timedelta(hours=1, minutes=15)
    await settle(scheduler(hourly()))
    assert (row(sql).cron, row(sql).overlap) == ("15 * * * *", "skip")
    await settle(scheduler(hourly(catch_up=CatchUp.SKIP)))
    assert not row(sql).edited
    assert (row(sql).cron, row(sql).every, row(sql).overlap) == (None, HOUR, "allow")
    assert row(sql).next_at == hours(1)[0]


async def test_reset_takes_back_every_change_but_a_pause(sql, clock, scheduler, client):
    await settle(scheduler(hourly()))
    await client.schedules.set("hourly", every=timedelta(minutes=5), catch_up=CatchUp.all(7))
    await client.schedules.pause("hourly")
    await client.schedules.reset("hourly")
    assert (row(sql).every, row(sql).catch_up, row(sql).edited) == (HOUR, "latest", False)
    assert row(sql).state == "paused"


async def test_an_edit_takes_effect_at_once_and_loses_no_tick_that_is_due(
    sql, clock, scheduler, client
):
    one = scheduler(hourly())
    await settle(one)
    clock.set(NOON + HOUR)
    await client.schedules.set("hourly", catch_up=CatchUp.SKIP)
    await settle(one)
    assert started(sql) == hours(1)
    await client.schedules.set("hourly", every=timedelta(minutes=10))
    clock.move(minutes=10)
    await settle(one)
    assert started(sql)[1:] == [NOON + timedelta(hours=1, minutes=10)]


async def test_what_was_planned_before_an_edit_does_not_undo_it(
    sql, clock, scheduler, client, monkeypatch
):
    one = scheduler(hourly())
    await settle(one)
    clock.set(NOON + HOUR)
    before_the_tick(monkeypatch, lambda: client.schedules.set("hourly", cron="0 */6 * * *"))
    await settle(one)
    assert started(sql) == []
    assert row(sql).next_at == hours(6)[0]


async def test_what_was_planned_under_another_policy_is_planned_again(
    sql, clock, scheduler, client, monkeypatch
):
    one = scheduler(hourly())
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    clock.move(hours=1)
    before_the_tick(monkeypatch, lambda: client.schedules.set("hourly", overlap=Overlap.SKIP))
    await settle(one)
    assert started(sql) == hours(1)
    await settle(one)
    assert started(sql) == hours(1)
    assert row(sql).skipped_at == hours(2)[0]


async def test_a_scheduler_that_was_held_up_does_not_turn_a_schedule_back(
    sql, clock, scheduler, monkeypatch
):
    held_up, other = scheduler(hourly()), scheduler(hourly())
    await settle(held_up)
    clock.move(hours=1)

    async def two_ticks() -> None:
        await settle(other)
        clock.move(hours=1)
        await settle(other)

    before_the_tick(monkeypatch, two_ticks)
    assert await held_up.run_once() == 0
    assert [row(sql).last_at, row(sql).next_at] == hours(2, 3)


def before_the_tick(monkeypatch, act) -> None:
    """Let something happen between the next plan and its statement."""
    tick = Schedules.tick

    async def late(self, connection, planned):
        monkeypatch.setattr(Schedules, "tick", tick)
        await act()
        return await tick(self, connection, planned)

    monkeypatch.setattr(Schedules, "tick", late)


async def test_a_deployment_with_another_policy_loses_no_tick_that_is_due(sql, clock, scheduler):
    await settle(scheduler(hourly()))
    clock.move(minutes=45)
    await settle(scheduler(hourly(overlap=Overlap.SKIP)))
    assert started(sql) == hours(1)


async def test_a_pause_lasts_over_deployments_and_its_ticks_are_not_caught_up(
    sql, clock, scheduler, client
):
    one = scheduler(hourly(catch_up=CatchUp.all(100)))
    await settle(one)
    await client.schedules.pause("hourly")
    clock.move(hours=3)
    await settle(one)
    await settle(scheduler(hourly(catch_up=CatchUp.all(50))))
    assert started(sql) == []
    await client.schedules.resume("hourly")
    await settle(one)
    assert row(sql).next_at == hours(4)[0]
    clock.move(hours=1)
    await settle(one)
    assert started(sql) == hours(4)


async def test_only_the_current_version_declares(sql, clock, scheduler):
    old, new = scheduler(hourly(), "v1"), scheduler(hourly(every=timedelta(minutes=5)), "v2")
    await settle(new)
    assert sql("SELECT name FROM everstep.schedule") == []
    await settle(old)
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    await settle(old)
    assert row(sql).every == HOUR
    await settle(new)
    await settle(old)
    assert row(sql).every == timedelta(minutes=5)
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    await settle(new)
    await settle(old)
    assert row(sql).every == HOUR


def without() -> App:
    return App("test")


def frequent() -> App:
    return hourly(every=timedelta(minutes=5))


@pytest.mark.parametrize("apps", [(hourly, frequent), (hourly, without), (without, hourly)])
async def test_a_late_declaration_of_the_former_version_changes_nothing(
    sql, clock, scheduler, monkeypatch, apps
):
    former, current = apps
    old, new = scheduler(former(), "v1"), scheduler(current(), "v2")
    declare = Schedules.declare
    in_force = "SELECT name, state, every FROM everstep.schedules"
    declared = []

    async def late(self, *arguments, **options):
        monkeypatch.setattr(Schedules, "declare", declare)
        sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
        await settle(new)
        declared.extend(sql(in_force))
        return await declare(self, *arguments, **options)

    monkeypatch.setattr(Schedules, "declare", late)
    await settle(old)
    assert sql(in_force) == declared
    assert len(declared) == len(current().schedules)


async def test_a_declaration_that_waits_for_a_lock_gives_way_to_a_newer_one(
    sql, clock, scheduler, database
):
    await settle(scheduler(hourly()))
    with psycopg.connect(database) as newer:
        newer.execute("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
        newer.execute(
            "UPDATE everstep.schedule SET every = 300, revision = revision + 1, "
            "routing = (SELECT revision FROM everstep.routing)"
        )
        older = asyncio.create_task(settle(scheduler(hourly(catch_up=CatchUp.SKIP))))
        await eventually(lambda: sql.one(BLOCKED_BY, [newer.info.backend_pid]))
        newer.commit()
        await older
    assert (row(sql).every, row(sql).catch_up) == (timedelta(minutes=5), "latest")


async def test_a_schedule_that_left_the_code_starts_nothing_until_it_comes_back(
    sql, clock, scheduler, client
):
    await settle(scheduler(hourly()))
    without = scheduler(App("test"))
    await settle(without)
    clock.move(hours=3)
    await settle(without)
    assert (started(sql), row(sql).state) == ([], "removed")
    with pytest.raises(UsageError, match="no schedule named 'hourly'"):
        await client.schedules.trigger("hourly")
    back = scheduler(hourly(catch_up=CatchUp.all(9)))
    await settle(back)
    assert (row(sql).state, row(sql).next_at) == ("active", hours(4)[0])


async def test_a_schedule_of_another_app_is_none_of_mine(sql, clock, scheduler):
    await settle(scheduler(hourly()))
    await settle(scheduler(App("another")))
    assert row(sql).state == "active"


# -- outside of the course -----------------------------------------------------------------------


async def test_trigger_starts_a_workflow_beside_the_ticks(sql, clock, scheduler, client, worker):
    app = hourly()
    one = scheduler(app)
    await settle(one)
    await client.schedules.pause("hourly")
    ids = [await client.schedules.trigger("hourly") for _ in range(2)]
    assert len(set(ids)) == 2
    await worker(app, version="v1")
    assert await client.handle_named(ids[0]).result(timeout=30) == clock.at.isoformat()
    assert row(sql).last_at is None


async def test_backfill_starts_each_past_tick_that_has_no_workflow(sql, clock, scheduler, client):
    one = scheduler(hourly())
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    done = await client.schedules.backfill("hourly", hours(-2)[0], hours(9)[0])
    assert (len(done.started), done.existing) == (3, 1)
    assert started(sql) == hours(-2, -1, 0, 1)
    again = await client.schedules.backfill("hourly", hours(-2)[0], hours(1)[0])
    assert (len(again.started), again.existing) == (0, 3)
    clock.move(hours=1)
    await settle(one)
    assert started(sql) == hours(-2, -1, 0, 1, 2)


async def test_backfill_reads_local_times_and_counts_its_ticks(sql, clock, scheduler, client):
    await settle(scheduler(hourly(cron="30 2 * * *", every=None, timezone="Europe/Paris")))
    done = await client.schedules.backfill(
        "hourly", datetime.fromisoformat("2026-03-28"), datetime.fromisoformat("2026-03-31")
    )
    assert len(done.started) == 3
    assert started(sql) == [
        utc("2026-03-28T01:30"),
        utc("2026-03-29T01:00"),
        utc("2026-03-30T00:30"),
    ]
    await client.schedules.set("hourly", every=timedelta(seconds=1))
    with pytest.raises(UsageError, match="piece by piece"):
        await client.schedules.backfill("hourly", NOON - timedelta(days=1), NOON)


async def test_a_backfill_that_goes_nowhere_is_refused(sql, clock, scheduler, client):
    await settle(scheduler(hourly()))
    for start, end in ((NOON, NOON - timedelta(hours=1)), (NOON, NOON)):
        with pytest.raises(UsageError, match="a backfill goes forward, through the past"):
            await client.schedules.backfill("hourly", start, end)
    with pytest.raises(UsageError, match="through the past"):
        await client.schedules.backfill(
            "hourly", NOON + timedelta(days=900), NOON + timedelta(days=901)
        )


async def test_a_backfilled_workflow_is_not_the_previous_one(sql, clock, scheduler, client):
    one = scheduler(hourly(overlap=Overlap.SKIP))
    await settle(one)
    await client.schedules.backfill("hourly", hours(-2)[0], NOON)
    clock.move(hours=1)
    await settle(one)
    assert started(sql) == hours(-2, -1, 1)


async def test_a_queue_that_nobody_has_heard_of_is_refused(clock, scheduler, client, sql):
    await settle(scheduler(hourly()))
    with pytest.raises(UsageError, match="no queue named 'nowhere'"):
        await client.schedules.set("hourly", queue="nowhere")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"catch_up": "all"}, r"hourly: catch_up= is .*CatchUp\.all\(n\), not 'all'"),
        ({"overlap": "some"}, r"hourly: overlap= is one of .*, not 'some'"),
        ({"timezone": UTC}, "timezone= takes a name such as"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    clock, scheduler, client, sql, changes, says
):
    await settle(scheduler(hourly()))
    with pytest.raises(UsageError, match=says):
        await client.schedules.set("hourly", cron="0 * * * *", **changes)
    (row,) = await client.schedules.list()
    assert not row.edited


async def test_a_backfill_takes_datetimes(clock, scheduler, client, sql):
    await settle(scheduler(hourly()))
    with pytest.raises(UsageError, match="takes datetimes, not '2026-05-01'"):
        await client.schedules.backfill("hourly", "2026-05-01", NOON)


# -- fsck ----------------------------------------------------------------------------------------


DAMAGE = {
    "has no workflow": "UPDATE everstep.schedule SET last_at = last_at - interval '30 minutes'",
    "the input says": 'UPDATE everstep.workflow SET input = \'{"tick":"2026-05-01T11:00:00Z"}\'',
    "still to come": "UPDATE everstep.schedule SET next_at = last_at",
}


@pytest.mark.no_fsck
@pytest.mark.parametrize("says", DAMAGE)
async def test_fsck_finds_ticks_and_workflows_that_do_not_belong_together(
    sql, clock, scheduler, database, says
):
    one = scheduler(hourly())
    await settle(one)
    clock.move(hours=1)
    await settle(one)
    clock.set(NOON + HOUR)
    assert fsck(database) == []
    sql(DAMAGE[says])
    clock.set(NOON + HOUR - timedelta(seconds=1))
    (found,) = fsck(database)
    assert found.invariant == "I11"
    assert says in found.what


# -- command line --------------------------------------------------------------------------------


async def test_the_command_line_does_it_all(sql, clock, scheduler, database):
    await settle(scheduler(hourly()))

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(
            CliRunner(catch_exceptions=False).invoke, command, [*arguments, "--database", database]
        )
        assert done.exit_code == 0, done.output
        return done.stdout

    await run("pause", "hourly")
    assert row(sql).state == "paused"
    await run("resume", "hourly")
    await run("set", "hourly", "--cron", "0 8 * * *", "--timezone", "Europe/Paris")
    assert (row(sql).cron, row(sql).timezone, row(sql).edited) == (
        "0 8 * * *",
        "Europe/Paris",
        True,
    )
    assert "0 8 * * *" in await run("list")
    await run("set", "hourly", "--catch-up", "all:5", "--overlap", "skip")
    assert (row(sql).catch_up, row(sql).overlap) == ("all:5", "skip")
    await run("reset", "hourly")
    assert not row(sql).edited
    assert (await run("trigger", "hourly")).startswith("sched:hourly:now:")
    said = await run(
        "backfill", "hourly", "--start", "2026-05-01T09:00", "--end", "2026-05-01T11:00"
    )
    assert said == "started: 2, there already: 0\n"
    with pytest.raises(UsageError, match="nothing to change: say what"):
        await run("set", "hourly")


async def test_a_plain_program_has_schedules_too(sql, clock, scheduler, database):
    await settle(scheduler(hourly()))

    def plain() -> tuple[int, str]:
        with sync.Client.connect(database) as client:
            client.schedules.set("hourly", catch_up=CatchUp.SKIP)
            client.schedules.pause("hourly")
            client.schedules.resume("hourly")
            client.schedules.reset("hourly")
            client.schedules.set("hourly", timezone="UTC", overlap=Overlap.SKIP)
            done = client.schedules.backfill("hourly", hours(-1)[0], NOON)
            with pytest.raises(UsageError, match="no colour to change"):
                client.schedules.set("hourly", colour="red")
            assert client.schedules.trigger("hourly").startswith("sched:hourly:now:")
            return len(done.started), client.schedules.list()[0].overlap

    assert await asyncio.to_thread(plain) == (1, "skip")
    assert (row(sql).catch_up, row(sql).edited) == ("latest", True)
