"""A client that was closed says so, instead of waiting for loops that have ended."""

from __future__ import annotations

import asyncio

import pytest

from everstep import App, Client, UsageError


async def test_a_closed_client_starts_nothing_and_waits_for_nothing(
    app: App, database: str
) -> None:
    @app.workflow
    async def work() -> None:
        return None

    async with Client.connect(database) as client:
        handle = await client.start(work)
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
    for call in (waiting, handle.result(), client.start(work)):
        with pytest.raises(UsageError, match="closed"):
            async with asyncio.timeout(5):
                await call


async def test_a_client_that_was_never_opened_says_so(app: App, database: str) -> None:
    @app.workflow
    async def work() -> None:
        return None

    client = Client(database)
    for call in (client.start(work), client.outcomes.wait("x")):
        with pytest.raises(UsageError, match="not open: `async with Client"):
            async with asyncio.timeout(5):
                await call
    await client.close()
