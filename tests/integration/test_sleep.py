"""Sleeping costs a row and not a worker; it ends in time, never early."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from support.waiting import eventually

import everstep
from everstep import Status, UsageError


@pytest.mark.no_replay("looks at the epoch")
async def test_a_long_sleep_parks_and_leaves_nothing_in_memory(app, client, worker, sql):
    woken = []

    @app.workflow
    async def naps() -> str:
        await everstep.sleep(timedelta(days=3))
        woken.append(1)
        return "awake"

    running = await worker(lease_ttl=0.9)
    handle = await client.start(naps)
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    await eventually(lambda: not running.tenure.runner.executions)
    info = await handle.info()
    assert (info.status, info.waits_for) == (Status.WAITING, "sleep")
    (row,) = sql("SELECT worker_id, epoch, wake_at FROM everstep.run")
    (recorded,) = sql("SELECT recorded_at FROM everstep.checkpoint")
    assert (row.worker_id, row.epoch) == (None, 2)
    assert row.wake_at == recorded.recorded_at + timedelta(days=3)
    beats = sql.one("SELECT max(lease_until) FROM everstep.worker")
    sql.advance_clock(3 * 86_400 - 60)
    # Not before time: sweeps and timers go round, and nothing happens.
    await eventually(
        lambda: sql.one("SELECT max(lease_until) FROM everstep.worker") > beats + timedelta(days=2)
    )
    assert sql.one("SELECT state FROM everstep.run") == 3
    assert woken == []
    sql.advance_clock(3 * 86_400)
    assert await handle.result(timeout=30) == "awake"
    assert woken == [1]


@pytest.mark.no_replay("looks at the epoch")
async def test_a_short_sleep_stays_and_is_never_early(app, client, worker, sql):
    @app.workflow
    async def naps(seconds: float) -> None:
        await everstep.sleep(seconds)

    await worker(lease_ttl=60)
    lengths = [0.0, 0.05, 0.3, 0.9]
    handles = [await client.start(naps, seconds) for seconds in lengths]
    for handle, seconds in zip(handles, lengths, strict=True):
        await handle.result(timeout=30)
        (row,) = sql(
            "SELECT w.finished_at - c.recorded_at AS slept, w.finished_epoch AS epoch "
            "FROM everstep.workflow w JOIN everstep.checkpoint c ON c.workflow_id = w.id WHERE w.id = %s",
            [handle.id],
        )
        assert row.epoch == 1
        assert row.slept >= timedelta(seconds=seconds)


async def test_a_sleep_is_counted_from_when_it_was_first_recorded(app, client, worker, sql):
    """Crash or release in the middle does not begin it anew."""

    @app.workflow
    async def naps() -> None:
        await everstep.sleep(3600)

    first = await worker()
    handle = await client.start(naps)
    await eventually(lambda: sql("SELECT 1 FROM everstep.checkpoint"))
    await first.stop()
    sql.advance_clock(1800)
    sql(
        "UPDATE everstep.run SET state = 1, wake_at = NULL, wait_key = NULL"
    )  # claimed again, in the middle of it
    await worker()
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3 AND epoch > 2"))
    sql.advance_clock(3601)
    await handle.result(timeout=30)


async def test_the_earliest_of_several_sleeps_decides_when_it_wakes(app, client, worker, sql):
    order = []

    @app.workflow
    async def naps() -> None:
        async def nap(hours: int) -> None:
            await everstep.sleep(timedelta(hours=hours))
            order.append(hours)

        await asyncio.gather(nap(3), nap(1), nap(2))

    await worker(lease_ttl=0.9)
    handle = await client.start(naps)
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    (row,) = sql(
        "SELECT wake_at, (SELECT min(recorded_at) FROM everstep.checkpoint) AS at FROM everstep.run"
    )
    assert abs(row.wake_at - row.at - timedelta(hours=1)) < timedelta(minutes=1)
    sql.advance_clock(3 * 3600 + 1)
    await handle.result(timeout=30)
    assert set(order) == {1, 2, 3}


async def test_a_delayed_start_is_not_claimed_before_its_time(app, client, worker, sql):
    ran = []

    @app.workflow
    async def later() -> None:
        ran.append(1)

    @app.workflow
    async def now() -> None: ...

    await worker(lease_ttl=0.9)
    delayed = await client.start(later, delay=timedelta(hours=1))
    await (await client.start(now)).result(timeout=30)
    assert sql("SELECT state, epoch FROM everstep.run") == [(3, 0)]
    assert sql("SELECT delayed, waiting FROM everstep.v1_queues WHERE queue = 'default'") == [
        (1, 0)
    ]
    sql.advance_clock(3600)
    await delayed.result(timeout=30)
    assert ran == [1]


async def test_a_sleep_has_a_sensible_length(app, client, worker):
    @app.workflow
    async def naps(seconds: float) -> str:
        try:
            await everstep.sleep(seconds)
        except UsageError as error:
            return str(error)
        return ""

    await worker()
    for seconds in (-1.0, 1e12):
        said = await (await client.start(naps, seconds)).result(timeout=30)
        assert "between 0 seconds and 100 years" in said


async def test_many_timers_that_are_due_wake_at_once(app, client, worker, sql):
    @app.workflow
    async def later() -> None: ...

    handles = await asyncio.gather(*[client.start(later, delay=3600) for _ in range(1_200)])
    sql.advance_clock(3600)
    await worker()
    async with asyncio.timeout(30):
        await asyncio.gather(*[handle.result() for handle in handles])


@pytest.mark.parametrize("wrong", ["x", None])
async def test_a_sleep_of_nonsense_fails_the_workflow_and_not_the_worker(
    app, client, worker, wrong
):
    @app.workflow
    async def naps() -> None:
        await everstep.sleep(wrong)

    @app.workflow
    async def fine() -> int:
        return 1

    await worker()
    with pytest.raises(everstep.WorkflowError):
        await (await client.start(naps)).result(timeout=30)
    assert await (await client.start(fine)).result(timeout=30) == 1
