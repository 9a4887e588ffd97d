from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from support.fleet import Fleet
from support.schedules import HandClock, expected_ticks, utc
from support.waiting import eventually

from everstep import App, CatchUp
from everstep.engine.scheduler import Scheduler
from everstep.store.connection import Link
from everstep.store.fsck import fsck

ZONES = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Beirut",
    "America/Sao_Paulo",
)
EXPRESSION = "0,30 0-3 * * *"
"""Each half hour of the hours in which clocks are changed."""

START, END = utc("2026-02-10"), utc("2026-11-10")
SCHEDULERS = 8
STEPS = 60
HALF_HOUR = timedelta(minutes=30)
ABANDONED = (
    "SELECT count(*) FROM everstep.run r LEFT JOIN everstep.worker k ON k.id = r.worker_id "
    "WHERE r.state = 2 AND (k.id IS NULL OR k.lease_until < everstep.clock())"
)
"""Runs that nobody alive owns."""


@pytest.mark.slow
async def test_eight_schedulers_start_each_of_ten_thousand_ticks_once(database, sql, rng):
    """Over both changes of the clocks in six zones, with two of the eight broken off in each round."""
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    clock = HandClock(sql, START)
    app = App("race")

    @app.workflow(name="report")
    async def report(tick: datetime) -> None: ...

    for zone in ZONES:
        app.schedule(EXPRESSION, timezone=zone, name=zone, catch_up=CatchUp.all(10_000))(report)
    async with AsyncExitStack() as stack:
        fleet = [make_scheduler(database, app, stack) for _ in range(SCHEDULERS)]
        await asyncio.gather(*(settle(one) for one in fleet))
        for moment in moments(rng):
            clock.set(moment)
            await race(fleet, rng)
    found = ticks_of(sql)
    expected = [
        (zone, tick)
        for zone in sorted(ZONES)
        for tick in expected_ticks(EXPRESSION, zone, START + HALF_HOUR, END, HALF_HOUR)
        if tick > START
    ]
    assert len(expected) > 10_000
    assert found == expected
    assert sql.one("SELECT sum(n)::int FROM everstep.metric_delta WHERE kind = 1") == len(expected)


@pytest.mark.slow
async def test_workers_killed_again_and_again_start_each_tick_once(database, sql, rng, tmp_path):
    with Fleet(database, tmp_path, "support.schedule_app:app") as fleet:
        fleet.start(3)
        await eventually(lambda: ticks_of(sql), within=60, what="a first tick")
        for _ in range(6):
            seen = len(ticks_of(sql))
            fleet.kill(rng.choice(fleet.workers))
            fleet.start()
            await eventually(lambda seen=seen: len(ticks_of(sql)) > seen, within=60)
        # Fleet and clock go on: a minute at once, half an hour at once.
        for ahead in (60, 1860):
            sql.advance_clock(ahead)
            seen = len(ticks_of(sql))
            fleet.kill(rng.choice(fleet.workers))
            await eventually(lambda: len(ticks_of(sql)) >= seen + 30, within=60)  # noqa: B023
            fleet.start()
        until = sql.one("SELECT everstep.clock()")
        all_moved = "SELECT bool_and(next_at > %s) FROM everstep.schedule"
        await eventually(lambda: sql.one(all_moved, [until]), within=60)
        # fsck alone is not enough: it finds no fault with runs of the dead until somebody alive could have freed them,
        # and what the jump made old counts as long dead as soon as the first worker has renewed its lease.
        await eventually(lambda: sql.one(ABANDONED) == 0, within=60, what="the runs of the killed")
        await eventually(lambda: not fsck(database), within=60, pause=0.5)
    found = ticks_of(sql)
    for name, step in (("minutes", 60), ("seconds", 1)):
        ticks = [tick for schedule, tick in found if schedule == name]
        gaps = {(b - a).total_seconds() for a, b in pairwise(ticks)}
        assert gaps == {step}, fleet.logs()


def moments(rng: random.Random) -> list[datetime]:
    """When the schedulers look: at odd moments, on ticks, and at the end."""
    span = (END - START) // HALF_HOUR
    chosen = sorted(rng.sample(range(1, span), STEPS))
    odd = [
        START + n * HALF_HOUR + timedelta(seconds=rng.choice([0, 0, 1, 61, 900])) for n in chosen
    ]
    return [*odd, END - timedelta(seconds=1)]


async def race(fleet: list[Scheduler], rng: random.Random) -> None:
    """All at once; two are broken off at some moment, in a statement or between two; the others finish."""
    broken = [asyncio.create_task(settle(one)) for one in rng.sample(fleet, 2)]
    others = [asyncio.create_task(settle(one)) for one in fleet]
    for task in broken:
        await asyncio.sleep(rng.uniform(0, 0.004))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await asyncio.gather(*others)
    # A lock that a broken one held for a moment may have kept the others away: as the next round would.
    await settle(fleet[0])


async def settle(scheduler: Scheduler) -> None:
    while await scheduler.run_once():
        pass


def make_scheduler(url: str, app: App, stack: AsyncExitStack) -> Scheduler:
    link = Link(url, "test scheduler")
    stack.push_async_callback(link.close)
    return Scheduler(
        link,
        list(app.schedules.values()),
        app=app.name,
        schema="everstep",
        version="v1",
        announce=lambda: None,
    )


def ticks_of(sql) -> list[tuple[str, datetime]]:
    rows = sql(
        "SELECT split_part(id, ':', 2) COLLATE \"C\" AS name, to_timestamp(split_part(id, ':', 3)::bigint) AS tick "
        "FROM everstep.workflow WHERE starts_with(id, 'sched:') ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]
