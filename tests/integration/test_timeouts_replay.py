"""Time limits that ran out: a replay tells it again to whom it was told, whatever that one waits for and however late."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import Any

import pytest
from support.hold import Hold
from support.waiting import eventually

import everstep
from everstep.durable import waiting

HOUR = 3600


async def replayed_an_hour_later(flow: Any, client: Any, worker: Any, sql: Any) -> Any:
    """Its result, when it has slept for an hour at its end and is replayed then."""
    await worker()
    handle = await client.start(flow)
    asleep = "SELECT 1 FROM everstep.run WHERE wake_at > everstep.clock() + interval '1000 s'"
    await eventually(lambda: sql(asleep))
    sql.advance_clock(HOUR + 1)
    return await handle.result(30)


@pytest.mark.parametrize("how", ["await", "shield", "wait"])
async def test_a_block_that_waits_for_a_task_made_before_it(app, client, worker, how):
    hold = Hold(app)

    @app.workflow
    async def flow() -> list[str]:
        said = []
        task = asyncio.create_task(everstep.recv("never"))
        try:
            async with everstep.timeout(0.2):
                match how:
                    case "await":
                        await task
                    case "shield":
                        await asyncio.shield(task)
                    case "wait":
                        await asyncio.wait({task})
                said.append("in time")
        except TimeoutError:
            said.append(await hold.step())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await hold.moved(first, worker)
    assert await handle.result(30) == ["held"]


async def test_a_limit_that_runs_out_while_a_branch_is_about_to_park(
    app, client, worker, monkeypatch
):
    """The park of that branch would have no instant, and nobody would wake the block that is out of time."""

    @app.workflow
    async def flow() -> str:
        task = asyncio.create_task(everstep.recv("never"))
        try:
            async with everstep.timeout(0.5):
                await asyncio.wait({task})
        except TimeoutError:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return "out of time"
        return "in time"

    def block() -> None:
        blocked.set()
        time.sleep(1.0)

    async def still(execution: Any) -> bool:
        if not blocked.is_set():
            asyncio.get_running_loop().call_soon(block)
        return await original(execution)

    # Both are due in the same turn of the event loop: the limit, and then the look whether nothing has moved.
    blocked, original = asyncio.Event(), waiting._still
    monkeypatch.setattr(waiting, "_still", still)
    monkeypatch.setattr(waiting, "STILL_SECONDS", 0.6)
    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "out of time"
    assert blocked.is_set()


async def test_a_task_made_in_a_block_outlives_it(app, client, worker, sql):
    hold = Hold(app)

    @app.workflow
    async def flow() -> str:
        with contextlib.suppress(TimeoutError):
            async with everstep.timeout(0.2):
                task = asyncio.create_task(hold.step())
                await everstep.recv("never")
        await everstep.set_event("passed", True)
        return await task

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await client.get_event(handle.id, "passed", timeout=30)
    await hold.moved(first, worker)
    assert await handle.result(30) == "held"


async def test_code_behind_a_group_of_tasks_that_was_cancelled_is_not_reached(app, client, worker):
    hold = Hold(app)

    @app.step
    async def never() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> list[str]:
        said = []
        try:
            async with everstep.timeout(0.2):
                async with asyncio.TaskGroup() as group:
                    group.create_task(never())
                said.append("behind it")
        except TimeoutError:
            said.append("late")
        await hold.step()
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await hold.moved(first, worker)
    assert await handle.result(30) == ["late"]


@pytest.mark.parametrize("seconds", [30, 60], ids=["in memory", "parked"])
@pytest.mark.parametrize("inside", [False, True], ids=["itself", "in a task"])
async def test_a_sleep_that_lost_against_the_clock_stays_lost(
    app, client, worker, sql, monkeypatch, seconds, inside
):
    """Also when its time has long come; and a park for the sleep takes the limit along."""
    monkeypatch.setattr(waiting, "STAY_SECONDS", 45)
    ran: list[str] = []

    @app.step
    async def wake_up() -> None:
        ran.append("woke up")

    async def nap() -> None:
        await everstep.sleep(seconds)
        await wake_up()

    @app.workflow
    async def flow() -> list[str]:
        said = []
        try:
            async with everstep.timeout(0.2):
                await (asyncio.gather(nap()) if inside else nap())
                said.append("slept")
        except TimeoutError:
            said.append("late")
        await everstep.sleep(HOUR)
        return said

    assert await replayed_an_hour_later(flow, client, worker, sql) == ["late"]
    assert ran == []


async def test_a_block_left_by_another_error_leaves_no_cancellation_behind(app, client, worker):
    @app.step
    async def odd() -> None:
        raise asyncio.CancelledError

    @app.workflow
    async def flow() -> str:
        with contextlib.suppress(KeyError):
            async with everstep.timeout(0.1):
                try:
                    await everstep.recv("never")
                except asyncio.CancelledError:
                    raise KeyError from None
        try:
            await odd()
        except everstep.StepError:
            return "the step failed"
        except asyncio.CancelledError:
            return "cancelled"
        return "?"

    await worker()
    assert await (await client.start(flow)).result(30) == "the step failed"


@pytest.mark.no_replay("limits that end while a worker takes over have no certain order")
@pytest.mark.parametrize(
    "outer, inner, words",
    [(0.2, 0.3, ["outer"]), (1.5, 0.3, ["inner", "outer"])],
    ids=["outer first", "inner first"],
)
async def test_two_limits_that_run_out_in_one_turn_of_the_loop(
    app, client, worker, sql, outer, inner, words
):
    """A task that is cancelled twice at once hears of it once."""

    @app.workflow
    async def flow() -> list[str]:
        said = []
        try:
            async with everstep.timeout(outer):
                try:
                    async with everstep.timeout(inner):
                        asyncio.get_running_loop().call_soon(time.sleep, 1.7)
                        await everstep.recv("never")
                except TimeoutError:
                    said.append("inner")
                await everstep.recv("never")
        except TimeoutError:
            said.append("outer")
        await everstep.sleep(HOUR)
        return said

    assert await replayed_an_hour_later(flow, client, worker, sql) == words


async def test_a_limit_within_one_that_ran_out_does_not_run_out_itself(app, client, worker, sql):
    """However long its own time is over when that is replayed."""

    @app.workflow
    async def flow() -> list[str]:
        said = []
        try:
            async with everstep.timeout(0.2):
                try:
                    async with everstep.timeout(60):
                        await asyncio.gather(everstep.recv("a"), everstep.recv("b"))
                except TimeoutError:
                    said.append("inner")
        except TimeoutError:
            said.append("outer")
        await everstep.sleep(HOUR)
        return said

    assert await replayed_an_hour_later(flow, client, worker, sql) == ["outer"]


async def test_a_wait_that_is_cancelled_before_it_begins_is_no_warning(app, client, worker):
    """pytest makes an error of "coroutine … was never awaited", which users would find in their logs."""

    @app.workflow
    async def flow() -> None:
        for wait in (everstep.recv("a"), everstep.get_event("b", "c")):
            asyncio.create_task(wait).cancel()
        await asyncio.sleep(0)

    await worker()
    await (await client.start(flow)).result(30)


@pytest.mark.no_replay(
    "a step runs until its workflow has gone on, and the workflow, about to leave, waits for the step"
)
@pytest.mark.parametrize("how", ["shield", "wait", "shield, then tasks"])
async def test_what_came_after_the_time_was_up_does_not_lead_a_replay_further(
    app, client, worker, sql, how
):
    """The block awaited a task that went on: at the replay that has ended, and code is reached that never was."""
    free = asyncio.Event()

    @app.step
    async def slow() -> str:
        await free.wait()
        return "slow"

    @app.step
    async def note(what: str) -> str:
        return what

    @app.workflow
    async def flow() -> list[str]:
        said = []
        task = asyncio.create_task(slow())
        try:
            async with everstep.timeout(0.2):
                await (asyncio.wait({task}) if how == "wait" else asyncio.shield(task))
                if how == "shield, then tasks":
                    await asyncio.gather(note("in time"))
                said.append(await note("in time"))
        except TimeoutError:
            said += await asyncio.gather(note("late"))
            said.append(await note("too"))
        free.set()
        said.append(await task)
        await everstep.sleep(HOUR)
        return said

    said = await replayed_an_hour_later(flow, client, worker, sql)
    assert said == ["late", "too", "slow"]


@pytest.mark.no_replay(
    "a step runs until its workflow has gone on, and the workflow, about to leave, waits for the step"
)
async def test_what_a_replay_does_not_begin_is_no_warning(app, client, worker, sql):
    """It comes past the place at which the time was up, to coroutines made there: pytest makes an error of one never awaited."""
    free = asyncio.Event()

    @app.step
    async def slow() -> str:
        await free.wait()
        return "slow"

    async def say(what: str) -> str:
        return what

    @app.workflow
    async def flow() -> list[str]:
        said = []
        task = asyncio.create_task(slow())
        try:
            async with everstep.timeout(0.2):
                await asyncio.shield(task)
                both = [say("a"), say("b")]
                said += [one async for one in everstep.as_completed(both)]
        except TimeoutError:
            said += await asyncio.gather(say("late"), say("too"))
        free.set()
        await task
        await everstep.sleep(HOUR)
        return said

    assert await replayed_an_hour_later(flow, client, worker, sql) == ["late", "too"]
    gc.collect()
