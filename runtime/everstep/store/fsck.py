"""Runs fsck.sql: the engine's invariants against a database in use. Reads only, and bounds what it says."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from everstep.store.connection import connect_arguments, translate, unreachable
from everstep.store.statements import in_schema

GRACE = timedelta(seconds=21)
"""After a lease ran out, within which a sweep frees what it covered: TTL, a sweep, and a second."""

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold, for one workflow or (None) for something else."""

    invariant: str
    workflow_id: str | None
    what: str


@cache
def invariants(schema: str) -> dict[str, bytes]:
    """The queries of fsck.sql by the name of their invariant."""
    text = files("everstep.store").joinpath("sql", "fsck.sql").read_text(encoding="utf-8")
    pieces = _NAME.split(text)[1:]
    named = zip(pieces[::2], pieces[1::2], strict=True)
    return {name: in_schema(sql, schema).encode() for name, sql in named if name != "end"}


def fsck(
    url: str,
    schema: str = "everstep",
    *,
    since: datetime | None = None,
    grace: timedelta = GRACE,
    timeout: timedelta = timedelta(minutes=5),
) -> list[Broken]:
    """Every invariant that does not hold; an empty list is a clean bill.

    `since`: of finished workflows, look only at those that finished later (None: at all). `timeout` is that of
    each query. Raises DatabaseUnreachableError, SchemaError or UsageError.
    """
    # A standby may be looked at too.
    arguments = {**connect_arguments(url, "everstep fsck"), "target_session_attrs": "any"}
    try:
        connection = psycopg.connect(
            **arguments, row_factory=namedtuple_row, prepare_threshold=None
        )
    except psycopg.OperationalError as error:
        raise unreachable(url, error) from None
    try:
        with connection:
            _prepare(connection, schema, since, grace, timeout)
            return [
                Broken(*row)
                for query in invariants(schema).values()
                for row in connection.execute(query).fetchall()
            ]
    except psycopg.Error as error:
        raise translate(error) from error
    finally:
        connection.close()


async def fsck_async(url: str, schema: str = "everstep", **options: Any) -> list[Broken]:
    """The same without blocking the event loop."""
    return await asyncio.to_thread(fsck, url, schema, **options)


def _prepare(
    connection: psycopg.Connection[Any],
    schema: str,
    since: datetime | None,
    grace: timedelta,
    timeout: timedelta,
) -> None:
    """What fsck.sql does itself when psql runs it: one read-only transaction with its two settings."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY")
    settings = {
        f"{schema}.fsck_since": "-infinity" if since is None else since.isoformat(),
        f"{schema}.fsck_grace": f"{grace.total_seconds()} seconds",
        "statement_timeout": f"{int(timeout.total_seconds() * 1000)}",
    }
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, true)", [name, value])
