"""Cancellation reaches a workflow wherever it is, soon, and leaves nothing half recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from support.waiting import eventually

import everstep
from everstep import Retry, WorkflowCancelledError, sync

LEASE = {"lease_ttl": 600.0}
"""So long that no heartbeat brings a cancellation while a test waits for it."""


async def cancel_and_see(client: Any, handle: Any) -> None:
    """The workflow ends as cancelled, long before a heartbeat could tell its worker."""
    assert await client.cancel(handle.id)
    with pytest.raises(WorkflowCancelledError):
        await handle.result(30)


async def cancelled_once_begun(flow: Any, begun: asyncio.Event, client: Any, worker: Any) -> Any:
    """A workflow whose step has begun and is cancelled then."""
    await worker(**LEASE)
    handle = await client.start(flow)
    await asyncio.wait_for(begun.wait(), 30)
    await cancel_and_see(client, handle)
    return handle


async def test_a_running_async_step_is_stopped_long_before_the_next_beat(app, client, worker):
    begun, ended = asyncio.Event(), []

    @app.step(retry=Retry())
    async def long() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            ended.append("finally")
        return "never"

    @app.workflow
    async def flow() -> str:
        return await long()

    handle = await cancelled_once_begun(flow, begun, client, worker)
    assert ended == ["cancelled", "finally"]
    assert await handle.steps() == []


@pytest.mark.parametrize("error", [ConnectionError("closing failed"), SystemExit(3)], ids=repr)
async def test_what_a_stopped_step_raises_is_not_recorded_nor_retried(app, client, worker, error):
    begun = asyncio.Event()
    tries: list[int] = []

    @app.step(retry=Retry(interval=timedelta(minutes=1)))
    async def long() -> None:
        tries.append(1)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    @app.workflow
    async def flow() -> None:
        await long()

    handle = await cancelled_once_begun(flow, begun, client, worker)
    assert tries == [1]
    assert await handle.steps() == []


async def test_every_branch_is_stopped_also_those_nobody_awaits(app, client, worker):
    begun: list[str] = []
    stopped: list[str] = []

    @app.step
    async def long(name: str) -> None:
        begun.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(name)

    @app.workflow
    async def flow() -> None:
        tasks = [asyncio.create_task(long("stray"))]
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(long(name)) for name in ("a", "b")]
            await asyncio.gather(long("c"), long("d"))

    await worker(**LEASE)
    handle = await client.start(flow)
    await eventually(lambda: len(begun) == 5)
    await cancel_and_see(client, handle)
    assert sorted(stopped) == ["a", "b", "c", "d", "stray"]
    assert await handle.steps() == []


async def test_a_task_left_behind_ends_with_its_workflow_and_records_nothing(app, client, worker):
    begun, stopped = asyncio.Event(), asyncio.Event()
    after: list[str] = []

    @app.step
    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.step
    async def late() -> None:
        after.append("late")

    async def stubborn() -> None:
        try:
            await long()
        finally:
            await late()

    @app.workflow
    async def flow() -> str:
        task = asyncio.create_task(stubborn())
        await everstep.run(begun.wait)
        return "done" if not task.done() else "?"

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "done"
    await asyncio.wait_for(stopped.wait(), 30)
    assert [step.name.rpartition(".")[2] for step in await handle.steps()] == ["wait"]
    assert after == []


@pytest.mark.parametrize("waits", ["recv", "sleep", "sleep beside a step"])
async def test_a_wait_ends_at_once(app, client, worker, sql, waits):
    @app.step
    async def hold() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> None:
        if waits == "recv":
            await everstep.recv()
        elif waits == "sleep":
            await everstep.sleep(3600)
        else:  # it cannot park
            await asyncio.gather(hold(), everstep.sleep(3600))

    await worker(**LEASE)
    handle = await client.start(flow)
    state = 2 if waits == "sleep beside a step" else 3
    await eventually(lambda: sql.one("SELECT state FROM everstep.run") == state)
    if state == 2:
        await eventually(lambda: sql("SELECT 1 FROM everstep.checkpoint"))
    await cancel_and_see(client, handle)


@pytest.mark.parametrize("plain", [False, True])
async def test_a_pause_before_the_next_attempt_ends_at_once(app, client, worker, plain):
    tried = threading.Event()

    @app.step(retry=Retry(interval=timedelta(minutes=1)))
    def flaky() -> None:
        tried.set()
        raise ValueError

    @app.workflow
    async def flow() -> None:
        await everstep.run(flaky)

    @app.workflow
    def plain_flow() -> None:
        flaky()

    await worker(**LEASE)
    handle = await client.start(plain_flow if plain else flow)
    await eventually(tried.is_set)
    await cancel_and_see(client, handle)
    assert await handle.steps() == []


async def test_a_plain_workflow_stops_at_its_next_step_and_its_async_step_at_once(
    app, client, worker
):
    begun, go_on, stopped = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []

    @app.step
    def busy() -> None:
        begun.set()
        go_on.wait(30)
        ran.append("busy")

    @app.step
    def after() -> None:
        ran.append("after")

    @app.step
    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.workflow
    def in_step() -> None:
        busy()
        after()

    @app.workflow
    def in_async_step() -> None:
        sync.gather(sync.call(long), lambda: sync.recv("never"))

    started = await worker(**LEASE)
    handle = await client.start(in_step)
    await eventually(begun.is_set)
    await client.cancel(handle.id)
    await eventually(lambda: started.tenure.runner.executions[handle.id].signal is not None)
    go_on.set()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(30)
    assert ran == ["busy"]
    begun.clear()
    handle = await client.start(in_async_step)
    await eventually(begun.is_set)
    await cancel_and_see(client, handle)
    assert stopped.is_set()


async def test_a_cancelled_at_most_once_step_leaves_its_mark_and_no_outcome(app, client, worker):
    begun = asyncio.Event()

    @app.step(at_most_once=True)
    async def launch() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> None:
        await launch()

    handle = await cancelled_once_begun(flow, begun, client, worker)
    assert [step.kind for step in await handle.steps()] == ["started"]


async def test_a_cancelled_transaction_is_rolled_back(app, client, worker, sql):
    sql("CREATE TABLE booked (n int)")
    begun = asyncio.Event()

    @app.transaction
    async def book(tx: everstep.Connection) -> None:
        await tx.execute("INSERT INTO booked VALUES (1)")
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> None:
        await book()

    handle = await cancelled_once_begun(flow, begun, client, worker)
    assert sql.one("SELECT count(*) FROM booked") == 0
    assert await handle.steps() == []


async def test_a_parent_sees_that_its_inline_child_was_cancelled(app, client, worker):
    begun = asyncio.Event()

    @app.step
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def child() -> None:
        await long()

    @app.workflow
    async def parent() -> str:
        try:
            await child()
        except WorkflowCancelledError as error:
            return str(error)
        return ""

    @app.workflow
    async def grandparent() -> str:
        return await parent()

    await worker(**LEASE)
    handle = await client.start(grandparent, id="g")
    await asyncio.wait_for(begun.wait(), 30)
    await client.cancel("g/1/1")
    assert "workflow 'g/1/1' was cancelled" in await handle.result(30)


async def test_cancelling_a_grandparent_stops_running_steps_of_all_below(app, client, worker, sql):
    begun, stopped = asyncio.Event(), asyncio.Event()

    @app.step
    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    @app.workflow
    async def child() -> None:
        await long()

    @app.workflow
    def parent() -> None:
        sync.run(child)

    @app.workflow
    async def grandparent() -> None:
        await everstep.run(parent)

    await worker(**LEASE)
    handle = await client.start(grandparent, id="g")
    await asyncio.wait_for(begun.wait(), 30)
    await cancel_and_see(client, handle)
    await asyncio.wait_for(stopped.wait(), 30)
    await eventually(lambda: sql("SELECT status FROM everstep.workflow WHERE status <> 3") == [])


async def test_a_worker_of_quick_workflows_asks_about_none(app, client, worker):
    @app.workflow
    async def quick() -> None: ...

    @app.workflow
    async def slow() -> None:
        await everstep.run(hold)

    async def hold() -> None:
        await asyncio.Event().wait()

    started = await worker()
    runs = started.tenure._runs
    asked: list[str] = []
    real = runs.cancelled

    async def spy(connection: Any, ids: list[str]) -> list[str]:
        asked.extend(ids)
        return await real(connection, ids)

    runs.cancelled = spy
    in_no_time: set[str] = set()
    for _ in range(200):
        began = time.monotonic()
        handle = await client.start(quick)
        await handle.result(30)
        # Less than lies between two rounds. Those of a slow machine are not quick.
        if time.monotonic() - began < 0.25:
            in_no_time.add(handle.id)
        if len(in_no_time) == 30:
            break
    assert in_no_time
    assert in_no_time.isdisjoint(asked)
    handle = await client.start(slow)
    await eventually(lambda: handle.id in asked)
    await handle.cancel()
