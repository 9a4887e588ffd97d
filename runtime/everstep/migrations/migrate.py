"""Runs migrations: the engine's own, then the user's. The ledger in Postgres is the truth.

One runner at a time (a session advisory lock named by the schema); each transactional file commits together
with its row in the ledger; a file marked `-- everstep: no-transaction` is entered as started first, so that
a runner that died half-way is noticed (Dirty) and never run again blindly. DDL waits at most `lock_timeout`
for a lock, so that it cannot queue up in front of the application, and is tried again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from everstep.errors import MigrationError
from everstep.migrations.files import Migration, parse, read_folder
from everstep.settings import checked_schema
from everstep.store.connection import connect_arguments, unreachable
from everstep.store.statements import in_schema

LOCK_TIMEOUT_SECONDS = 5
LOCK_TRIES = 8

Connection = psycopg.Connection[Any]
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
            _transaction(connection, [in_schema(_ledger(), schema)], "the ledger", say)
            applied = _run(connection, schema, "engine", own, say)
            applied += _run(connection, schema, "user", users, say)
    except psycopg.OperationalError as error:
        # The server went away in the middle: nothing is left of a transactional file that was under way.
        raise unreachable(url, error) from None
    return Migrated(engine=own[-1].number, applied=applied)


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


def _ledger() -> str:
    return files("everstep.migrations").joinpath("ledger.sql").read_text()


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
        raise MigrationError(
            {
                "code": "LockTimeout",
                "message": "another migration has held this schema's lock for a minute",
                "remedy": "See pg_locks (locktype advisory) for its process, wait for it, and run this again.",
            }
        )

    def __exit__(self, *_: object) -> None:
        if not self._connection.closed and not self._connection.broken:
            self._connection.execute(
                "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [self._key]
            )


def _run(
    connection: Connection, schema: str, origin: str, wanted: Sequence[Migration], say: Progress
) -> list[str]:
    applied = _history(connection, schema, origin, wanted)
    pending = [m for m in wanted if m.number not in applied]
    for migration in pending:
        say(f"applying {migration.file}")
        _apply(connection, schema, origin, migration, say)
    return [m.file for m in pending]


def _history(
    connection: Connection, schema: str, origin: str, wanted: Sequence[Migration]
) -> set[int]:
    """Numbers applied already. Raises MigrationError if the files and the ledger tell different stories."""
    rows = connection.execute(
        in_schema(
            "SELECT number, file, checksum, state FROM everstep.migration WHERE origin = %s ORDER BY number",
            schema,
        ).encode(),
        [origin],
    ).fetchall()
    by_number = {m.number: m for m in wanted}
    for row in rows:
        mine = by_number.get(row.number)
        if row.state == "started":
            raise _dirty(row.file)
        if mine is None:
            if origin == "engine":
                raise _too_new(row.number, max(by_number))
            if wanted:
                raise _diverged(row.file, "was applied, and is gone from the folder")
        elif mine.checksum != row.checksum and origin == "user":
            raise _diverged(mine.file, f"has changed since it was applied as {row.file}")
    done = {row.number for row in rows}
    late = [m.file for m in wanted if m.number not in done and done and m.number < max(done)]
    if late:
        raise _diverged(late[0], "comes before files that were applied already")
    return done


def _apply(
    connection: Connection, schema: str, origin: str, migration: Migration, say: Progress
) -> None:
    entry = (
        "INSERT INTO everstep.migration (origin, number, file, checksum, state, started_at, applied_at, applied_by) "
        "VALUES (%s, %s, %s, %s, %s, clock_timestamp(), CASE WHEN %s THEN clock_timestamp() END, current_user)"
    )
    key = [origin, migration.number, migration.file, migration.checksum]
    ledger = in_schema(entry, schema).encode()
    if migration.transactional:
        finish = (ledger, [*key, "applied", True])
        _transaction(connection, migration.statements(), migration.file, say, finish)
        return
    connection.execute(ledger, [*key, "started", False])
    for number, statement in enumerate(migration.statements(), 1):
        _statement(connection, statement, migration.file, number)
    connection.execute(
        in_schema(
            "UPDATE everstep.migration SET state = 'applied', applied_at = clock_timestamp() "
            "WHERE origin = %s AND number = %s",
            schema,
        ).encode(),
        key[:2],
    )


def _transaction(
    connection: Connection,
    statements: Sequence[str],
    file: str,
    say: Progress,
    finish: tuple[bytes, list[object]] | None = None,
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
                raise _lock_timeout(file, locked.statement, blockers) from None
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
        raise MigrationError(
            {
                "code": "MigrationFailed",
                "file": file,
                "statement": number,
                "sqlstate": error.sqlstate or "",
                "message": " ".join(str(error).split())[:500],
                "remedy": f"Nothing of {file} was kept if it is transactional. Put statement {number} right "
                f"and migrate again.",
            }
        ) from error


def _blockers(connection: Connection) -> str:
    """The oldest open transactions: one of them holds the lock, and a person can end it."""
    rows = connection.execute(
        "SELECT pid, application_name, state, date_trunc('second', clock_timestamp() - xact_start) AS age "
        "FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() "
        "AND datname = current_database() ORDER BY xact_start LIMIT 3"
    ).fetchall()
    told = [f"pid {r.pid} {r.application_name or '-'} {r.state} for {r.age}" for r in rows]
    return "; ".join(told) or "no open transaction left"


def _lock_timeout(file: str, statement: int, blockers: str) -> MigrationError:
    return MigrationError(
        {
            "code": "LockTimeout",
            "file": file,
            "statement": statement,
            "sqlstate": "55P03",
            "message": f"{file}, statement {statement}: no lock after {LOCK_TRIES} tries of "
            f"{LOCK_TIMEOUT_SECONDS} s. Open transactions: {blockers}",
            "remedy": "End the blocking transaction (pg_terminate_backend) and migrate again.",
        }
    )


def _dirty(file: str) -> MigrationError:
    return MigrationError(
        {
            "code": "Dirty",
            "file": file,
            "message": f"{file} runs outside a transaction and stopped half-way",
            "remedy": "Look at what it did (an invalid index?), finish or undo it by hand, then set its row in "
            "everstep.migration to state 'applied', or delete the row to run it again.",
        }
    )


def _too_new(found: int, known: int) -> MigrationError:
    return MigrationError(
        {
            "code": "SchemaTooNew",
            "message": f"the engine's schema is at {found}, this code knows {known}",
            "remedy": "Run a newer everstep: the schema is never taken back.",
        }
    )


def _diverged(file: str, what: str) -> MigrationError:
    return MigrationError(
        {
            "code": "HistoryDiverged",
            "file": file,
            "message": f"{file} {what}",
            "remedy": "Applied files stay as they are: restore it, and put the change into a new file with "
            "the next number.",
        }
    )
