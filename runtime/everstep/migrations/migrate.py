"""Runs migrations: the engine's own, then the user's. The ledger in Postgres is the truth.

One runner at a time (a session advisory lock named by the schema); each transactional file commits together
with its row in the ledger; a file marked `-- everstep: no-transaction` is entered as started first, so that
a runner that died half-way is noticed (Dirty) and never run again blindly. DDL waits at most `lock_timeout`
for a lock, so that it cannot queue up in front of the application, and is tried again. Where newer code has
migrated already and the schema's mark allows this code, its own part is done and the user's files are applied.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psycopg
from psycopg.rows import namedtuple_row

from everstep.migrations import refusals
from everstep.migrations.files import Migration, parse, read_folder
from everstep.migrations.ledger import (
    Connection,
    Entry,
    ended,
    engine_schema,
    entry,
    history,
    ledger,
)
from everstep.settings import checked_schema
from everstep.store.connection import connect_arguments, unreachable
from everstep.store.statements import in_schema

LOCK_TIMEOUT_SECONDS = 5
LOCK_TRIES = 8

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Migrated:
    """What a run came to: the engine's schema number, and the files applied now."""

    engine: int
    applied: list[str]


def engine_migrations() -> list[Migration]:
    """The migrations this code brings."""
    folder = files("everstep.migrations")
    return parse([f for f in folder.iterdir() if f.name[:4].isdigit() and f.name.endswith(".sql")])


def migrate(
    url: str, schema: str, folder: Path | None = None, say: Progress = lambda _: None
) -> Migrated:
    """Bring a database up to date. Raises MigrationError, DatabaseUnreachableError or UsageError."""
    checked_schema(schema)
    own = [Migration(m.number, m.file, in_schema(m.text, schema)) for m in engine_migrations()]
    users = [] if folder is None else read_folder(folder)
    try:
        with open_connection(url) as connection, _OnlyRunner(connection, schema, say):
            _transaction(connection, [in_schema(ledger(), schema)], "the ledger", say)
            applied = _run(connection, schema, "engine", own, say)
            applied += _run(connection, schema, "user", users, say)
            return Migrated(engine_schema(connection, schema), applied)
    except psycopg.OperationalError as error:
        # The server went away in the middle: nothing is left of a transactional file that was under way.
        raise unreachable(url, error) from None


def open_connection(url: str) -> Connection:
    """A synchronous autocommit connection. Raises DatabaseUnreachableError or UsageError."""
    try:
        return psycopg.connect(
            **connect_arguments(url, "everstep migrate"),
            autocommit=True,
            row_factory=namedtuple_row,
            prepare_threshold=None,
        )
    except psycopg.OperationalError as error:
        raise unreachable(url, error) from None


class _OnlyRunner:
    """Holds the session lock while migrations run; tells whom it waits for."""

    def __init__(self, connection: Connection, schema: str, say: Progress) -> None:
        self._connection, self._key, self._say = connection, f"everstep migrate {schema}", say

    def __enter__(self) -> None:
        for attempt in range(120):
            row = self._connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS got", [self._key]
            ).fetchone()
            assert row is not None
            if row.got:
                return
            if attempt == 0:
                self._say("another migration is running against this schema: waiting for it")
            time.sleep(0.5)
        raise refusals.another_runner()

    def __exit__(self, *_: object) -> None:
        if not self._connection.closed and not self._connection.broken:
            self._connection.execute(
                "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [self._key]
            )


def _run(
    connection: Connection, schema: str, origin: str, wanted: Sequence[Migration], say: Progress
) -> list[str]:
    applied = history(connection, schema, origin, wanted)
    pending = [m for m in wanted if m.number not in applied]
    for migration in pending:
        say(f"applying {migration.file}")
        _apply(connection, schema, origin, migration, say)
    return [m.file for m in pending]


def _apply(
    connection: Connection, schema: str, origin: str, migration: Migration, say: Progress
) -> None:
    if migration.transactional:
        finish = entry(schema, origin, migration, applied=True)
        _transaction(connection, migration.statements(), migration.file, say, finish)
        return
    connection.execute(*entry(schema, origin, migration, applied=False))
    for number, statement in enumerate(migration.statements(), 1):
        _statement(connection, statement, migration.file, number)
    connection.execute(*ended(schema, origin, migration))


def _transaction(
    connection: Connection,
    statements: Sequence[str],
    file: str,
    say: Progress,
    finish: Entry | None = None,
) -> None:
    """All statements and the ledger's row in one transaction; tried again while locks are in the way."""
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            with connection.transaction():
                connection.execute(b"SET LOCAL lock_timeout = '%ds'" % LOCK_TIMEOUT_SECONDS)
                for number, statement in enumerate(statements, 1):
                    _statement(connection, statement, file, number)
                if finish is not None:
                    connection.execute(*finish)
                return
        except _Locked as locked:
            blockers = _blockers(connection)
            say(f"{file}: waiting for a lock ({blockers}); try {attempt} of {LOCK_TRIES}")
            if attempt == LOCK_TRIES:
                raise refusals.lock_timeout(
                    file,
                    locked.statement,
                    blockers,
                    tries=LOCK_TRIES,
                    seconds=LOCK_TIMEOUT_SECONDS,
                ) from None
            time.sleep(random.uniform(0.2, 1.0) * attempt)  # noqa: S311


class _Locked(Exception):
    def __init__(self, statement: int) -> None:
        super().__init__()
        self.statement = statement


def _statement(connection: Connection, statement: str, file: str, number: int) -> None:
    try:
        connection.execute(statement.encode())
    except psycopg.errors.LockNotAvailable:
        raise _Locked(number) from None
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise refusals.failed(file, number, error.sqlstate or "", str(error)) from error


def _blockers(connection: Connection) -> str:
    """The oldest open transactions: one of them holds the lock, and a person can end it."""
    rows = connection.execute(
        "SELECT pid, application_name, state, date_trunc('second', clock_timestamp() - xact_start) AS age "
        "FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() "
        "AND datname = current_database() ORDER BY xact_start LIMIT 3"
    ).fetchall()
    told = [f"pid {r.pid} {r.application_name or '-'} {r.state} for {r.age}" for r in rows]
    return "; ".join(told) or "no open transaction left"
