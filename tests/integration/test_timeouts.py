"""Time limits in a workflow: recorded timers that fire though it parks, and at a replay exactly where they did."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from support.waiting import eventually

import everstep
from everstep import StepError, WorkflowError

HOUR = 3600
WAYS = ["everstep.wait_for", "everstep.timeout", "asyncio.wait_for", "asyncio.timeout"]


async def limited(way: str, coroutine: Any, seconds: float) -> Any:
    """The same limit, said in each of the ways there are."""
    match way:
        case "everstep.wait_for":
            return await everstep.wait_for(coroutine, timedelta(seconds=seconds))
        case "asyncio.wait_for":
            return await asyncio.wait_for(coroutine, seconds)
        case "everstep.timeout":
            async with everstep.timeout(seconds):
                return await coroutine
        case "asyncio.timeout":
            async with asyncio.timeout(seconds):
                return await coroutine


def parked(sql: Any) -> bool:
    return bool(sql("SELECT 1 FROM everstep.run WHERE state = 3"))


async def woken_after_an_hour(flow: Any, client: Any, worker: Any, sql: Any) -> Any:
    """A workflow that has left its worker for an hour, and is replayed now that this is over."""
    await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    sql.advance_clock(HOUR + 1)
    return handle


@pytest.mark.parametrize("way", WAYS)
async def test_a_step_that_lost_against_the_clock_stays_lost(app, client, worker, sql, way):
    """At the replay it would be quick; it is not asked."""
    slow = [True]
    ran: list[str] = []
    said: list[str] = []

    @app.step
    async def ask() -> str:
        ran.append("ask")
        if slow[0]:
            await asyncio.Event().wait()
        return "answer"

    @app.step
    async def fall_back() -> str:
        return "no answer"

    @app.workflow
    async def flow() -> str:
        try:
            answer = str(await limited(way, ask(), 0.5))
        except TimeoutError:
            answer = await fall_back()
        said.append(answer)
        await everstep.sleep(HOUR)
        return answer

    await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    slow[0] = False
    sql.advance_clock(HOUR + 1)
    assert await handle.result(30) == "no answer"
    assert len(said) >= 2
    assert set(said) == {"no answer"}
    assert ran == ["ask"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_step_that_won_stays_the_winner_long_after_its_time(app, client, worker, sql, way):
    @app.step
    async def ask() -> str:
        return "answer"

    @app.workflow
    async def flow() -> str:
        answer = str(await limited(way, ask(), 60))
        await everstep.sleep(HOUR)
        return answer

    handle = await woken_after_an_hour(flow, client, worker, sql)
    assert await handle.result(30) == "answer"


@pytest.mark.parametrize("way", WAYS)
async def test_a_limit_outlives_the_park_of_what_it_limits(app, client, worker, sql, way):
    @app.workflow
    async def flow() -> str:
        try:
            return str(await limited(way, everstep.recv("word"), HOUR))
        except TimeoutError:
            return "nobody said a word"

    started = await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    await eventually(lambda: not started.tenure.runner.executions)
    assert sql.one("SELECT extract(epoch FROM wake_at - everstep.clock()) FROM everstep.run") > 3500
    sql.advance_clock(HOUR + 1)
    assert await handle.result(30) == "nobody said a word"


async def test_a_message_in_time_wins_and_the_limit_is_forgotten(app, client, worker, sql):
    @app.workflow
    async def flow() -> str:
        word = str(await everstep.wait_for(everstep.recv("word"), HOUR))
        await everstep.sleep(2 * HOUR)
        return word

    await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    await client.send(handle.id, "hello", "word")
    await eventually(lambda: sql.one("SELECT wait_key FROM everstep.run") == "sleep")
    sql.advance_clock(3 * HOUR)
    assert await handle.result(30) == "hello"


async def test_a_child_that_takes_too_long_goes_on_without_its_parent(app, client, worker, sql):
    @app.workflow
    async def child() -> str:
        return str(await everstep.recv("go"))

    @app.workflow
    async def parent() -> str:
        try:
            return await everstep.wait_for(child(), HOUR)
        except TimeoutError:
            return "too long"

    await worker()
    handle = await client.start(parent, id="p")
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == 2)
    sql.advance_clock(HOUR + 1)
    assert await handle.result(30) == "too long"
    await client.send("p/1", "went", "go")
    assert await client.handle_named("p/1").result(30) == "went"


async def test_compensation_in_a_limited_block_is_finished_after_a_crash(app, client, worker, sql):
    """The limit has run out, the cleanup has begun, and the worker dies: the cleanup goes on elsewhere."""
    hold, cleaning = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    @app.step
    async def do(what: str) -> None:
        ran.append(what)
        if what == "pay":
            await asyncio.Event().wait()
        if what == "release" and not hold.is_set():
            cleaning.set()
            await asyncio.Event().wait()

    async def booking() -> None:
        await do("reserve")
        try:
            await do("pay")
        finally:
            await do("release")

    @app.workflow
    async def flow() -> str:
        try:
            await everstep.wait_for(booking(), 1.5)
        except TimeoutError:
            return "released"
        return "paid"

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(cleaning.wait(), 30)
    await first.stop()
    hold.set()
    await worker()
    assert await handle.result(30) == "released"
    assert ran == ["reserve", "pay", "release", "release"]


async def test_limits_within_limits_run_out_one_by_one(app, client, worker, sql):
    said: list[list[str]] = []

    @app.step
    async def never() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> list[str]:
        words: list[str] = []
        try:
            async with everstep.timeout(1.5):
                try:
                    async with everstep.timeout(0.1):
                        await asyncio.gather(never(), never())
                except TimeoutError:
                    words.append("inner")
                await never()
        except TimeoutError:
            words.append("outer")
        said.append(words)
        await everstep.sleep(HOUR)
        return words

    handle = await woken_after_an_hour(flow, client, worker, sql)
    assert await handle.result(30) == ["inner", "outer"]
    assert all(words == ["inner", "outer"] for words in said)
    assert len(said) >= 2


async def test_a_task_group_replays_who_failed_and_who_was_cancelled(app, client, worker, sql):
    ran: list[str] = []
    said: list[list[str]] = []
    late = asyncio.Event()

    @app.step
    async def work(name: str) -> None:
        ran.append(name)
        if name == "bad":
            await late.wait()
            raise ValueError(name)
        if ran.count(name) > 1:
            raise KeyError("ran again")
        late.set()
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> list[str]:
        errors: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work("bad"))
                group.create_task(work("long"))
        except* StepError as failed:
            errors += [error.failure.message for error in failed.exceptions]  # type: ignore[union-attr]
        said.append(errors)
        await everstep.sleep(HOUR)
        return errors

    handle = await woken_after_an_hour(flow, client, worker, sql)
    assert await handle.result(30) == ["bad"]
    assert all(errors == ["bad"] for errors in said)
    assert len(said) >= 2
    assert sorted(ran) == ["bad", "long"]
    errors = [step.error_message for step in await handle.steps() if step.kind == "step"]
    assert errors == ["bad", "its own workflow cancelled it: a time limit, or a task"]


async def test_an_error_in_a_limited_block_is_that_error(app, client, worker):
    @app.step
    async def fail() -> None:
        raise ValueError("mine")

    @app.workflow
    async def flow() -> None:
        async with everstep.timeout(60):
            await fail()

    await worker()
    with pytest.raises(WorkflowError, match="mine"):
        await (await client.start(flow)).result(30)


async def test_a_cancelled_workflow_is_cancelled_and_not_out_of_time(app, client, worker):
    begun = asyncio.Event()

    @app.step
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> str:
        try:
            await asyncio.wait_for(long(), HOUR)
        except TimeoutError:
            return "out of time"
        return "?"

    await worker()
    handle = await client.start(flow)
    await asyncio.wait_for(begun.wait(), 30)
    await handle.cancel()
    with pytest.raises(everstep.WorkflowCancelledError):
        await handle.result(30)
    assert "long" not in json.dumps([step.name for step in await handle.steps()])


async def test_a_step_that_raises_cancelled_error_by_itself_has_failed(app, client, worker, sql):
    @app.step
    async def odd() -> None:
        raise asyncio.CancelledError

    @app.workflow
    async def flow() -> str:
        try:
            await odd()
        except StepError as error:
            await everstep.sleep(HOUR)
            return error.failure.message
        return "?"

    handle = await woken_after_an_hour(flow, client, worker, sql)
    assert "nobody had cancelled it" in await handle.result(30)


async def test_outside_of_workflows_asyncio_is_as_ever(app, client, worker):
    @app.step
    async def own_limit() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        except TimeoutError:
            return "its own limits"
        return "?"

    @app.workflow
    async def flow() -> str:
        return await own_limit()

    @app.workflow
    def plain() -> str:
        try:
            everstep.timeout(1)
        except everstep.UsageError as error:
            return str(error)
        return "?"

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "its own limits"
    assert len(await handle.steps()) == 1
    assert "cannot stop the thread" in await (await client.start(plain)).result(30)
    with pytest.raises(everstep.UsageError, match="inside a workflow"):
        everstep.timeout(1)
