from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from support.schedules import utc

from everstep import App, CatchUp, Overlap
from everstep.cron import Cron, Every, ticks
from everstep.engine.scheduler import plan
from everstep.errors import UsageError
from everstep.schedules import MOST_CAUGHT_UP, ROUND, due, newest, tick_id
from everstep.store.schedules import ScheduleRow

MINUTELY = Cron("* * * * *", "UTC")
HOURLY = Every(timedelta(hours=1))
NOON = utc("2026-05-01T12:00")


def minutes(*counts: int) -> tuple[datetime, ...]:
    return tuple(NOON + timedelta(minutes=n) for n in counts)


@pytest.mark.parametrize(
    ("late", "policy", "started"),
    [
        # seconds after noon, with the tick of noon still to start: what is not a minute old is on time
        (0, CatchUp.SKIP, [0]),
        (60, CatchUp.SKIP, [0, 1]),
        (61, CatchUp.SKIP, [1]),
        (61, CatchUp.LATEST, [1]),
        (61, CatchUp.all(9), [0, 1]),
        (600, CatchUp.SKIP, [9, 10]),
        (630, CatchUp.SKIP, [10]),
        (630, CatchUp.LATEST, [10]),
        (630, CatchUp.all(1), [9, 10]),
        (630, CatchUp.all(3), [7, 8, 9, 10]),
        (630, CatchUp.all(10), list(range(11))),
        (630, CatchUp.all(11), list(range(11))),
    ],
)
def test_a_policy_decides_about_ticks_more_than_a_minute_late(late, policy, started):
    found = due(MINUTELY, NOON, NOON + timedelta(seconds=late), policy)
    assert found.start == minutes(*started)
    assert found.next_at == NOON + timedelta(minutes=late // 60 + 1)


@pytest.mark.parametrize(
    ("policy", "started"),
    [(CatchUp.SKIP, []), (CatchUp.LATEST, [120]), (CatchUp.all(2), [60, 120])],
)
def test_when_no_tick_is_on_time_latest_starts_the_newest_one_missed(policy, started):
    found = due(HOURLY, NOON, NOON + timedelta(minutes=150), policy)
    assert found.start == minutes(*started)
    assert found.next_at == NOON + timedelta(hours=3)


def test_many_missed_ticks_are_caught_up_in_rounds_and_none_is_lost_between_them():
    now, next_at, started = NOON + timedelta(days=5), NOON, []
    while next_at <= now:
        found = due(MINUTELY, next_at, now, CatchUp.all(5000))
        assert len(found.start) <= ROUND
        started += found.start
        next_at = found.next_at
        now += timedelta(seconds=20)
    missed = 5000
    assert started[0] == NOON + timedelta(days=5, minutes=-1 - missed)
    last = now - timedelta(seconds=20)
    assert started == list(ticks(MINUTELY, started[0], last + timedelta(microseconds=1)))


@pytest.mark.parametrize("most", [1, 7, 60, 61, 500])
def test_the_newest_ticks_are_found_from_the_end(most):
    start, end = NOON - timedelta(days=300), NOON
    for timing in (MINUTELY, HOURLY, Cron("30 2 * * *", "Europe/Paris")):
        every = list(ticks(timing, end - timedelta(days=2 if timing is MINUTELY else 300), end))
        assert newest(timing, start, end, most) == every[-most:]


def test_the_newest_ticks_do_not_reach_beyond_the_start():
    assert newest(HOURLY, NOON, NOON + timedelta(hours=3), 50) == list(minutes(0, 60, 120))
    yearly = Cron("0 0 1 1 *", "UTC")
    assert newest(yearly, utc("2020-06-01"), utc("2026-06-01"), 2) == [
        utc("2025-01-01"),
        utc("2026-01-01"),
    ]


@pytest.mark.parametrize("text", ["skip", "latest", "all:1", f"all:{MOST_CAUGHT_UP}"])
def test_a_policy_is_written_as_it_is_read(text):
    assert str(CatchUp.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "all", "all:0", f"all:{MOST_CAUGHT_UP + 1}", "all:-1", "none"]
)
def test_a_policy_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        CatchUp.parse(text)


ROW = ScheduleRow(
    name="s", workflow="w", parameter="tick", queue="default", cron="* * * * *", every=None, timezone="UTC",
    catch_up="all:100", overlap="allow", paused=False, declared={}, revision=3, next_at=NOON,
    last_at=NOON - timedelta(minutes=1), skipped_at=None, removed_at=None, now=NOON + timedelta(minutes=5),
)  # fmt: skip


def test_a_plan_names_workflows_by_their_tick():
    tick = plan(ROW)
    assert tick.ids == [tick_id("s", at) for at in minutes(0, 1, 2, 3, 4, 5)]
    assert tick.ids[0] == f"sched:s:{int(NOON.timestamp())}"
    assert tick.inputs[0] == b'{"tick":"2026-05-01T12:00:00Z"}'
    assert (tick.expected, tick.revision) == (NOON, 3)
    assert (tick.previous, tick.skipped, tick.last) == (None, None, None)


def test_with_overlap_skip_the_first_of_several_ticks_is_started_if_the_previous_workflow_is_over():
    tick = plan(replace(ROW, overlap="skip"))
    assert tick.ticks == list(minutes(0))
    assert tick.previous == tick_id("s", NOON - timedelta(minutes=1))
    assert (tick.skipped, tick.last) == (*minutes(5), *minutes(5))


def test_with_overlap_cancel_previous_the_last_of_several_ticks_is_started():
    tick = plan(replace(ROW, overlap="cancel_previous"))
    assert tick.ticks == list(minutes(5))
    assert tick.skipped == minutes(4)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"paused": True},
        {"next_at": NOON + timedelta(hours=1)},
        {"next_at": None},
        {"removed_at": NOON},
    ],
)
def test_what_is_not_due_is_left_alone(change):
    assert plan(replace(ROW, **change)) is None


def test_a_row_that_makes_no_sense_is_an_error_of_its_own():
    with pytest.raises(UsageError):
        plan(replace(ROW, cron="nonsense"))


# -- definitions ---------------------------------------------------------------------------------


def test_a_schedule_registers_a_workflow_and_itself():
    app = App("test")

    @app.schedule("0 7 * * *", timezone="Europe/Paris", queue="slow")
    async def report(tick: datetime, dry: bool = False) -> None: ...

    (schedule,) = app.schedules.values()
    assert app.workflows[report.name] is report is schedule.workflow
    assert schedule.timing == Cron("0 7 * * *", "Europe/Paris")
    assert (schedule.catch_up, schedule.overlap) == (CatchUp.LATEST, Overlap.ALLOW)
    assert app.queues() == ["default", "slow"]
    app.check()


def test_a_workflow_may_have_several_schedules():
    app = App("test")

    @app.schedule("0 7 * * *", name="morning")
    @app.schedule(every=timedelta(hours=6), name="often")
    @app.workflow(name="report", queue="slow")
    def report(tick: datetime) -> None: ...

    assert {s.name: (s.workflow.name, s.queue) for s in app.schedules.values()} == {
        "often": ("report", "slow"),
        "morning": ("report", "slow"),
    }
    with pytest.raises(UsageError, match="already"):
        app.schedule("0 8 * * *", name="morning")(report)


async def no_parameter() -> None: ...
async def two_parameters(tick: datetime, x: int) -> None: ...
async def no_annotation(tick) -> None: ...
async def text(tick: str) -> None: ...
async def fine(tick: datetime) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (no_parameter, {"every": timedelta(hours=1)}, "takes the tick"),
        (two_parameters, {"every": timedelta(hours=1)}, "takes the tick"),
        (no_annotation, {"every": timedelta(hours=1)}, "annotate the parameter tick"),
        (text, {"every": timedelta(hours=1)}, "annotate the parameter tick"),
        (fine, {}, "either a cron expression"),
        (fine, {"every": timedelta(hours=1), "timezone": "Europe/Paris"}, "no time zone"),
        (fine, {"every": timedelta(hours=1), "name": "a:b"}, "without a colon"),
        (fine, {"every": timedelta(hours=1), "name": "x" * 201}, "200 bytes"),
        (fine, {"every": timedelta(hours=1), "name": " "}, "printable"),
        (fine, {"every": timedelta(hours=1), "name": "a\n"}, "printable"),
    ],
)
def test_a_mistake_shows_when_the_app_is_loaded(function, options, says):
    app = App("test")
    with pytest.raises(UsageError, match=says):
        app.schedule(**options)(function)
        app.check()
