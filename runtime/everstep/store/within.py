"""Statements inside a caller's own transaction, on a connection of theirs: psycopg, or SQLAlchemy over psycopg."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from everstep.errors import UsageError
from everstep.store import arrays


async def row_within(connection: Any, sql: bytes, arguments: dict[str, object]) -> Any:
    """The one row of a statement on a connection of the caller's."""
    driver = await driver_connection(connection)
    if isinstance(driver, psycopg.AsyncConnection):
        async with driver.cursor(row_factory=namedtuple_row) as cursor:
            arrays.register(cursor)
            await cursor.execute(sql, arguments)
            return await cursor.fetchone()
    with driver.cursor(row_factory=namedtuple_row) as plain:
        arrays.register(plain)
        plain.execute(sql, arguments)
        return plain.fetchone()


async def driver_connection(
    connection: Any,
) -> psycopg.AsyncConnection[Any] | psycopg.Connection[Any]:
    """The psycopg connection behind a caller's connection or session. Raises UsageError for anything else."""
    found = connection
    if hasattr(found, "sync_session"):  # SQLAlchemy AsyncSession
        found = await found.connection()
    elif hasattr(found, "get_bind") and callable(getattr(found, "connection", None)):
        found = found.connection()  # SQLAlchemy Session
    if hasattr(found, "get_raw_connection"):  # SQLAlchemy AsyncConnection
        found = (await found.get_raw_connection()).driver_connection
    elif hasattr(getattr(found, "connection", None), "driver_connection"):  # SQLAlchemy Connection
        found = found.connection.driver_connection
    if isinstance(found, (psycopg.AsyncConnection, psycopg.Connection)):
        return found
    raise UsageError(
        f"connection= takes a psycopg connection, or a SQLAlchemy connection or session over psycopg, "
        f"not {connection!r}"
    )
