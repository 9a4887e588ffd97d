"""Settings that a statement carries itself, because behind a transaction pooler no connection keeps any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncClientCursor

from everstep.store.connection import Connection, pooled


async def rows_under(
    connection: Connection, settings: bytes, sql: bytes, arguments: Mapping[str, object]
) -> list[Any]:
    """The rows of a statement. Behind a pooler under `settings`, of the form "SET LOCAL … ; SET LOCAL …; ".

    One message and one transaction: a worker that is frozen, or whose loop is blocked, in the middle of it holds
    no lock and pins nothing.
    """
    if not pooled(connection):
        # The connection has them.
        cursor = await connection.execute(sql, arguments, binary=True)
        return await cursor.fetchall()
    async with AsyncClientCursor(connection) as client_cursor:
        await client_cursor.execute(settings + sql, arguments)
        while client_cursor.nextset():
            pass
        return await client_cursor.fetchall()
