"""A workflow parks only when nothing of it goes on by itself: else what went on is cut off, and nobody wakes it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from support.hold import Hold
from support.waiting import eventually

import everstep
from everstep.durable import waiting


class Stillness:
    """Sees when a branch begins to ask whether its workflow stands still, and what it is told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asking = asyncio.Event()
        self.told: list[bool] = []
        self._ask = waiting._still
        patch.setattr(waiting, "_still", self._still)

    async def _still(self, execution: Any) -> bool:
        self.asking.set()
        self.told.append(await self._ask(execution))
        return self.told[-1]

    async def answered(self, times: int) -> None:
        """Wait until it was told so often."""
        before = len(self.told)
        await eventually(lambda: len(self.told) >= before + times)


@pytest.fixture
def stillness(monkeypatch: pytest.MonkeyPatch) -> Stillness:
    return Stillness(monkeypatch)


async def test_a_step_that_has_just_ended_is_not_stillness(app, client, worker, stillness):
    """Its end reaches the function some turns of the event loop later; before that a branch must not park it."""

    @app.step
    async def work() -> None:
        stillness.asking.clear()
        await stillness.asking.wait()
        time.sleep(waiting.STILL_SECONDS)  # noqa: ASYNC251 - the loop is late, as the answer is

    async def nested(depth: int) -> None:
        await (asyncio.gather(nested(depth - 1)) if depth else work())

    @app.workflow
    async def flow() -> str:
        answer = asyncio.create_task(everstep.recv("answer"))
        await nested(3)
        await everstep.sleep(0.2)
        await everstep.send(everstep.workflow_id(), "hello", "answer")
        return str(await answer)

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "hello"


async def test_a_branch_whose_turn_is_still_to_come_is_not_stillness(
    app, client, worker, monkeypatch
):
    """The loop is slow: all the time that a workflow must stand still passes within two of its turns."""
    asking, ended, ask = asyncio.Event(), asyncio.Event(), waiting._still

    @app.step
    async def work() -> None:
        await asking.wait()
        asyncio.get_running_loop().call_soon(ended.set)

    async def nested(depth: int) -> None:
        await (asyncio.gather(nested(depth - 1)) if depth else work())

    @app.workflow
    async def flow() -> str:
        answer = asyncio.create_task(everstep.recv("answer"))
        await nested(5)
        await everstep.now()
        await everstep.send(everstep.workflow_id(), "hello", "answer")
        return str(await answer)

    async def still(execution: Any) -> bool:
        if not ended.is_set():
            asking.set()
            await ended.wait()  # what the end of the step moves comes before this asks
            asyncio.get_running_loop().call_soon(time.sleep, 2 * waiting.STILL_SECONDS)
        return await ask(execution)

    monkeypatch.setattr(waiting, "_still", still)
    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "hello"


@pytest.mark.parametrize("what", ["send", "now"])
async def test_a_branch_that_waits_for_the_engine_is_not_stillness(
    app, client, worker, stillness, monkeypatch, what
):
    """However long the database takes for it."""
    hold = Hold(app)

    @app.workflow
    async def flow() -> str:
        answer = asyncio.create_task(everstep.recv("answer"))
        await hold.step()
        if what == "now":
            await everstep.now()
        await everstep.send(everstep.workflow_id(), "hello", "answer")
        return str(await answer)

    started = await worker()
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    await stillness.answered(1)
    committer = started.tenure.committer
    exists, commit = committer.eyes.exists, committer._commit

    async def late_exists(*arguments: Any) -> Any:
        await stillness.answered(2)
        return await exists(*arguments)

    async def late_commit(group: Any, rows: Any, **options: Any) -> Any:
        if "now" in rows.c_name:
            await stillness.answered(2)
        return await commit(group, rows, **options)

    if what == "send":
        monkeypatch.setattr(committer.eyes, "exists", late_exists)
    else:
        monkeypatch.setattr(committer, "_commit", late_commit)
    hold.free.set()
    assert await handle.result(30) == "hello"
