"""What waits in a client for somebody's lock holds up nobody else: who holds it may need the same client to go on."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from support.database import Sql
from support.waiting import BLOCKED_BY, eventually

from everstep import App, Client, Debounce


@pytest.mark.parametrize("what", ["debounce", "cancel"])
async def test_who_holds_a_lock_may_ask_the_client_that_waits_for_it(
    app: App, client: Client, database: str, sql: Sql, what: str
) -> None:
    """Else each waits for the other, and Postgres sees only one of them wait."""

    @app.workflow
    async def work(number: int) -> None:
        return None

    late = Debounce("key", window=60)
    handle = await client.start(work, 1, debounce=late)
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await client.start(work, 2, debounce=late, connection=connection)
        asking = client.start(work, 3, debounce=late) if what == "debounce" else handle.cancel()
        waiting = asyncio.ensure_future(asking)
        try:
            await eventually(lambda: sql.one(BLOCKED_BY, [connection.info.backend_pid]) == 1)
            info = await asyncio.wait_for(handle.info(), 30)
            assert not waiting.done()
        finally:
            await connection.commit()
    await asyncio.wait_for(waiting, 30)
    assert info.id == handle.id
