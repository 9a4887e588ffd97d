"""The ledger `everstep.migration`: what was applied, by whom, and whether the files still tell the same story."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import psycopg

from everstep.migrations import refusals
from everstep.migrations.files import Migration
from everstep.store.statements import in_schema

Connection = psycopg.Connection[Any]
Entry = tuple[bytes, list[object]]
"""A statement about the ledger, and its values."""


def ledger() -> str:
    """The statements that make it, where it is not there yet."""
    return files("everstep.migrations").joinpath("ledger.sql").read_text()


def history(
    connection: Connection, schema: str, origin: str, wanted: Sequence[Migration]
) -> set[int]:
    """Numbers applied already. Raises MigrationError if the files and the ledger tell different stories."""
    rows = connection.execute(
        in_schema(
            "SELECT number, file, checksum, state, coalesce(oldest_code, number) AS oldest_code "
            "FROM everstep.migration WHERE origin = %s ORDER BY number",
            schema,
        ).encode(),
        [origin],
    ).fetchall()
    by_number = {m.number: m for m in wanted}
    oldest_code = max((row.oldest_code for row in rows), default=0)
    for row in rows:
        mine = by_number.get(row.number)
        if row.state == "started":
            raise refusals.dirty(row.file)
        if mine is None:
            if origin == "engine":
                if oldest_code > max(by_number):
                    raise refusals.too_new(row.number, oldest_code, max(by_number))
            # The files of a rollback end earlier: what newer code added after them is left alone.
            elif wanted and row.number < max(by_number):
                raise refusals.diverged(row.file, "was applied, and is gone from the folder")
        elif mine.checksum != row.checksum and origin == "user":
            raise refusals.diverged(mine.file, f"has changed since it was applied as {row.file}")
    done = {row.number for row in rows}
    late = [m.file for m in wanted if m.number not in done and done and m.number < max(done)]
    if late:
        raise refusals.diverged(late[0], "comes before files that were applied already")
    return done


def engine_schema(connection: Connection, schema: str) -> int:
    """The number of the newest engine migration; newer code may have brought it."""
    statement = "SELECT max(number) AS number FROM everstep.migration WHERE origin = 'engine'"
    row = connection.execute(in_schema(statement, schema).encode()).fetchone()
    assert row is not None
    return int(row.number)


def entry(schema: str, origin: str, migration: Migration, *, applied: bool) -> Entry:
    """The row of a file that has been applied, or one that begins and may stop half-way."""
    statement = (
        "INSERT INTO everstep.migration "
        "(origin, number, file, checksum, state, oldest_code, started_at, applied_at, applied_by) "
        "VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp(), CASE WHEN %s THEN clock_timestamp() END, current_user)"
    )
    state = "applied" if applied else "started"
    key = [origin, migration.number, migration.file, migration.checksum]
    oldest_code = migration.oldest_code if origin == "engine" else None
    return in_schema(statement, schema).encode(), [*key, state, oldest_code, applied]


def ended(schema: str, origin: str, migration: Migration) -> Entry:
    statement = (
        "UPDATE everstep.migration SET state = 'applied', applied_at = clock_timestamp() "
        "WHERE origin = %s AND number = %s"
    )
    return in_schema(statement, schema).encode(), [origin, migration.number]
