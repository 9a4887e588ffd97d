"""A client that was closed says so, instead of waiting for loops that have ended."""

from __future__ import annotations

import asyncio

import pytest
from support.database import Sql
from support.waiting import eventually

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
            async with asyncio.timeout(30):
                await call


async def test_a_client_that_was_never_opened_says_so(app: App, database: str) -> None:
    @app.workflow
    async def work() -> None:
        return None

    client = Client(database)
    for call in (client.start(work), client.outcomes.wait("x")):
        with pytest.raises(UsageError, match="not open: `async with Client"):
            async with asyncio.timeout(30):
                await call
    await client.close()


async def test_a_close_that_is_cancelled_closes_all_the_same(
    app: App, database: str, sql: Sql
) -> None:
    """Cancelled once more in the middle of it, as by a second Ctrl-C."""

    @app.workflow
    async def work() -> None:
        return None

    client = Client(database)
    await client.open()
    await client.start(work)
    async with client._notify_link._lock:  # its last hint is under way
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await eventually(lambda: sql.one(ours) == 0)
    with pytest.raises(UsageError, match="closed"):
        await client.start(work)
