"""Time limits of a block and of tasks made in it that run out together, and cancellations that come with them: none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from support.hold import Hold
from support.waiting import eventually

import everstep
from everstep.durable.limits import Timeout

HOUR = 3600


@pytest.mark.no_replay(
    "a replay comes between the beginnings of the two limits: which ends first is open"
)
@pytest.mark.parametrize(
    "outer, inner, words",
    [(0.15, 0.55, ["outer"]), (0.55, 0.15, ["inner", "outer"])],
    ids=["outer first", "inner first"],
)
@pytest.mark.parametrize("group", [False, True], ids=["gather", "group"])
async def test_of_a_block_and_of_a_task_made_in_it(app, client, worker, outer, inner, words, group):
    """In one turn of a slow loop: the task hears of one cancellation, and must not take it for its own limit's."""
    said = []

    async def member() -> None:
        try:
            await everstep.wait_for(everstep.recv("a"), inner)
        except TimeoutError:
            said.append("inner")
        await everstep.recv("b")

    async def members() -> None:
        if not group:
            await asyncio.gather(member())
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(member())

    @app.workflow
    async def flow() -> list[str]:
        said.clear()
        try:
            async with everstep.timeout(outer):
                asyncio.get_running_loop().call_later(0.1, time.sleep, 0.5)
                await members()
        except TimeoutError:
            said.append("outer")
        return said

    await worker()
    assert await (await client.start(flow)).result(30) == words


@pytest.mark.no_replay("it is the test that cancels, not the workflow: a replay does not ask again")
async def test_a_task_that_is_cancelled_in_the_turn_in_which_its_limit_runs_out(
    app, client, worker, monkeypatch
):
    tasks: list[asyncio.Task[None]] = []

    def run_out(self: Timeout) -> None:
        original(self)
        tasks[0].cancel()

    async def member() -> None:
        with contextlib.suppress(TimeoutError):
            await everstep.wait_for(everstep.recv("a"), 0.2)
        await everstep.recv("b")

    @app.workflow
    async def flow() -> str:
        tasks.append(asyncio.create_task(member()))
        await asyncio.wait(tasks)
        return "cancelled" if tasks[0].cancelled() else "went on"

    original = Timeout._cancel
    monkeypatch.setattr(Timeout, "_cancel", run_out)
    await worker()
    assert await (await client.start(flow)).result(30) == "cancelled"


def waits_itself() -> Awaitable[Any]:
    return everstep.sleep(0.9)


def waits_for_tasks() -> Awaitable[Any]:
    return asyncio.gather(everstep.recv("a"))


@pytest.mark.no_replay("limits that end while a worker takes over have no certain order")
@pytest.mark.parametrize("wait", [waits_itself, waits_for_tasks])
async def test_a_replay_tells_them_in_the_order_in_which_they_ran_out(
    app, client, worker, sql, wait
):
    """Told of the outer one first, the task took it for its own limit's, went on, and was never told again."""

    async def member(said: list[str]) -> None:
        try:
            async with everstep.timeout(0.2):
                await wait()
        except TimeoutError:
            said.append("inner")
        await everstep.set_event("passed", True)
        await everstep.recv("b")

    @app.workflow
    async def flow() -> list[str]:
        said: list[str] = []
        try:
            async with everstep.timeout(0.5):
                await asyncio.gather(member(said))
        except TimeoutError:
            said.append("outer")
        await everstep.sleep(HOUR)
        return said

    await worker()
    handle = await client.start(flow)
    asleep = "SELECT 1 FROM everstep.run WHERE wake_at > everstep.clock() + interval '1000 s'"
    await eventually(lambda: sql(asleep))
    sql.advance_clock(HOUR + 1)
    assert await handle.result(30) == ["inner", "outer"]


async def test_a_limit_that_ran_out_while_nobody_had_the_workflow_cuts_off_nothing_that_was_done(
    app, client, worker, sql
):
    """The worker that takes over comes as far in the block as the first had before it runs out of time."""
    hold = Hold(app)

    @app.step
    async def note(what: str) -> str:
        return what

    @app.workflow
    async def flow() -> list[str]:
        said = []
        try:
            async with everstep.timeout(60):
                said += await asyncio.gather(note("a"), note("b"))
                said += await asyncio.gather(note("c"))
                said.append(await note("d"))
                await hold.step()
        except TimeoutError:
            said.append("late")
        said.append(await note("e"))
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    await first.stop()
    sql.advance_clock(100)
    await worker()
    assert await handle.result(30) == ["a", "b", "c", "d", "late", "e"]


async def test_a_limit_after_a_group_that_failed_in_its_block_is_told_once(app, client, worker):
    """Before Python 3.13 a group that has failed leaves behind that its task was cancelled, which it took no notice of."""

    @app.step
    async def fail() -> None:
        raise ValueError("bad")

    @app.step
    async def pause() -> None:
        await asyncio.sleep(0.01)

    @app.workflow
    async def flow() -> str:
        try:
            async with everstep.timeout(0.1):
                with contextlib.suppress(BaseExceptionGroup):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fail())
                await everstep.recv("never")
        except TimeoutError:
            await pause()
            return "out of time"
        return "in time"

    await worker()
    assert await (await client.start(flow)).result(30) == "out of time"
