"""Tasks that are cancelled and have time limits of their own: a replay tells them of both in the order in which they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.hold import Hold
from support.twice import ended, twice
from support.waiting import eventually

import everstep
from everstep.context import Execution, branch_here

HOUR = 3600
SAME_COMMIT = """UPDATE everstep.checkpoint SET recorded_at = (SELECT max(recorded_at) FROM everstep.checkpoint)
                 WHERE kind = 10 AND name IN ('timeout', 'cancel')"""

RAN_OUT = "SELECT 1 FROM everstep.checkpoint WHERE kind = 10 AND name = 'timeout'"


@pytest.fixture
def step(app) -> Any:
    @app.step
    async def echo(text: str) -> str:
        return text

    return echo


@pytest.mark.no_replay("the limit may run out before it is cancelled, there")
async def test_a_limit_whose_time_passed_between_two_workers_comes_after_the_cancellation(
    app, client, worker, sql
):
    hold = Hold(app)

    @app.workflow
    async def flow() -> list[str]:
        said: list[str] = []

        async def inner() -> None:
            try:
                async with everstep.timeout(60):
                    try:
                        await everstep.recv("never")
                    except asyncio.CancelledError:
                        said.append("cleaning up")
                        said.append(await hold.step())
                        raise
            except TimeoutError:
                said.append("late")

        async def outer() -> None:
            await asyncio.create_task(inner())

        task = asyncio.create_task(outer())
        await everstep.sleep(0.3)
        if hold.begun.is_set():  # the replay: the limit has to wait for it
            await asyncio.sleep(0.4)
        task.cancel()
        said.append(await ended(task))
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    await first.stop()
    sql.advance_clock(HOUR)
    hold.free.set()
    await worker()
    assert await handle.result(30) == ["cleaning up", "held", "cancelled"]


@pytest.mark.no_replay("a replay before the cancellation was recorded may come past it")
@pytest.mark.parametrize("sleeps", [True, False], ids=["then sleeps", "then a task"])
async def test_cancelled_while_what_ran_out_of_time_cleans_up(app, client, worker, step, sleeps):
    """As with asyncio.timeout, a block that was cancelled from outside as well ends as cancelled."""
    free = asyncio.Event()

    @app.step
    async def slow() -> None:
        await free.wait()

    async def body(said: list[str], _: Hold) -> None:
        told = asyncio.Event()

        async def member() -> None:
            try:
                await everstep.recv("never")
            finally:
                told.set()
                await slow()

        async def work() -> None:
            try:
                async with everstep.timeout(0.1), asyncio.TaskGroup() as group:
                    group.create_task(member())
            except TimeoutError:
                said.append("late")
            if sleeps:
                await everstep.sleep(0.2)
            else:
                await asyncio.create_task(asyncio.sleep(0))
            said.append("went on")

        task = asyncio.create_task(work())
        await told.wait()
        task.cancel()
        free.set()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cancelled"]


@pytest.mark.no_replay("how far the task comes in time is another matter there")
@pytest.mark.parametrize("limit_first", [True, False], ids=["limit first", "cancelled first"])
async def test_recorded_in_one_commit(app, client, worker, sql, limit_first):
    async def body(said: list[str], _: Hold) -> None:
        async def work() -> None:
            try:
                async with everstep.timeout(0.1 if limit_first else 0.8):
                    try:
                        await everstep.recv("never")
                    except asyncio.CancelledError:
                        said.append("told")
                        if not limit_first:
                            await everstep.recv("never")
                        raise
            except TimeoutError:
                said.append("late")
            if limit_first:
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await everstep.sleep(0.6 if limit_first else 0.1)
        task.cancel()
        said.append(await ended(task))

    said = await twice(app, client, worker, body, between=lambda: sql(SAME_COMMIT))
    assert said == ["told", "late", "cancelled" if limit_first else "returned None"]


@pytest.mark.no_replay("what is cancelled first is another matter there")
async def test_a_task_that_finishes_before_a_replay_can_cancel_it_was_not_cancelled(
    app, client, worker, sql
):
    """It comes to its end in the time in which its canceller waits for nothing to move any more."""
    holds = [Hold(app, f"hold {n}") for n in range(2)]
    executions: list[Execution] = []

    @app.workflow
    async def flow() -> list[str]:
        async def work() -> str:
            try:
                await everstep.wait_for(asyncio.gather(everstep.recv("never")), 0.2)
            except TimeoutError:
                return "late"
            return "in time"

        task = asyncio.create_task(work())
        executions.append(branch_here("this").execution)
        said = []
        for hold in holds:
            said.append(await hold.step())
            task.cancel()
            said.append(await ended(task))
        return said

    handle = await client.start(flow)
    for hold in holds:
        now = await worker(grace=0.0)
        await asyncio.wait_for(hold.begun.wait(), 30)
        await eventually(lambda: sql(RAN_OUT) and not executions[-1].held)
        await now.stop()
        hold.free.set()
    await worker()
    assert await handle.result(30) == ["held", "returned late"] * 2
    assert sql("SELECT * FROM everstep.checkpoint WHERE name = 'cancel' AND branch = '1.0'") == []


@pytest.mark.no_replay("how far the task comes in time is another matter there")
async def test_told_when_those_that_its_limit_cancelled_have_been(app, client, worker, step):
    """At the replay it is asked for at once, and the task that is cancelled by the limit waits for the same standstill."""

    async def body(said: list[str], _: Hold) -> None:
        async def waits() -> None:
            await asyncio.create_task(everstep.recv("never"))

        async def work() -> None:
            try:
                async with everstep.timeout(0.1), asyncio.TaskGroup() as group:
                    group.create_task(waits())
            except TimeoutError:
                said.append("late")
            said.append(await step("went on"))
            await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await everstep.sleep(0.5)
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["late", "went on", "cancelled"]


@pytest.mark.no_replay("a replay before the cancellation was recorded may come past it")
async def test_a_replay_takes_no_more_than_the_task_did_that_was_cancelled(
    app, client, worker, step
):
    """What it awaits is there in the turn in which it is cancelled. At a replay it comes past that, and is told there."""

    async def body(said: list[str], _: Hold) -> None:
        async def bad() -> None:
            raise ValueError("bad")

        async def says(text: str) -> None:
            said.append(text)

        async def work() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(says("a member"))
                await asyncio.create_task(says("went on"))
            finally:
                said.append(await step("cleaned up"))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
                group.create_task(bad())
        except* ValueError:
            said.append("failed")

    assert await twice(app, client, worker, body) == ["a member", "cleaned up", "failed"]
