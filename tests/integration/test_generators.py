"""Async generators in a workflow: Python closes one that is left early, and no branch is numbered by when it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from support.hold import Hold

import everstep


async def test_a_generator_that_is_left_early_numbers_no_branch(app, client, worker, sql):
    """At a replay nothing waits, and the event loop closes it after tasks before which it did so the first time."""
    hold = Hold(app)
    closed: list[str] = []

    @app.step
    async def number(n: int) -> int:
        return n

    @app.step
    async def close() -> None:
        closed.append("closed")

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(3):
                yield await number(n)
        finally:
            await close()

    async def one() -> int:
        return await number(1)

    async def two() -> int:
        await everstep.uuid()
        return 2

    @app.workflow
    async def flow() -> list[int]:
        async for _ in numbers():
            break
        await number(7)
        got = await asyncio.gather(one(), two())
        await hold.step()
        return list(got)

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await hold.moved(first, worker)
    assert await handle.result(30) == [1, 2]
    branches = [
        row.branch for row in sql("SELECT DISTINCT branch FROM everstep.checkpoint ORDER BY 1")
    ]
    assert branches == ["", "0.1", "1", "2"]
    assert closed == ["closed"]


async def test_results_that_nobody_waits_for_number_no_branch(app, client, worker):
    """The same for everstep's own generator."""
    hold = Hold(app)

    @app.step
    async def number(n: int) -> int:
        return n

    @app.step
    async def endless() -> int:
        await asyncio.Event().wait()
        return 0

    async def one() -> int:
        return await number(1)

    async def two() -> int:
        await everstep.uuid()
        return 2

    @app.workflow
    async def flow() -> list[int]:
        async for _ in everstep.as_completed([number(0), endless()]):
            break
        await number(7)
        got = await asyncio.gather(one(), two())
        await hold.step()
        return list(got)

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await hold.moved(first, worker)
    assert await handle.result(30) == [1, 2]
