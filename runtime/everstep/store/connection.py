"""Connections: how one is opened, which errors pass by themselves, and a link that mends itself.

Driver errors are translated here and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo
from psycopg.rows import namedtuple_row

from everstep.errors import DatabaseRefusedError, DatabaseUnreachableError, SchemaError, UsageError
from everstep.store import arrays

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

# A peer that vanished is noticed in about ten seconds, well inside a lease.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": 10,
}

# Connection lost, shutdown, serialization, deadlock, lock or statement timeout, too many connections,
# read-only standby, out of resources, idle for too long: the same statement may well succeed later.
_PASSING = ("08", "57P", "57014", "40", "55P03", "53", "25006", "25P03", "25P04")


class Passing(Exception):
    """A fault that passes: repeat the statement, on a new connection if this one is gone."""


class RowRejected(Exception):
    """The database refuses a value (class 22, 23, 54): repeating does not help, other rows may be fine."""


class CommittedLocally(Passing):
    """Synchronous replication was cancelled: the commit may be lost in a failover. Unknown outcome."""

    def __init__(self) -> None:
        super().__init__("committed here, and perhaps not on the standby")


def connect_arguments(url: str, application: str) -> dict[str, Any]:
    """Keyword arguments for psycopg.connect. Raises UsageError for a malformed connection string."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What libpq says about it quotes the string, and the password with it.
        raise UsageError(
            "the database URL is malformed. Write it as postgresql://user:password@host:5432/name, with "
            "@ : / ? # % in the password percent-encoded, or as host=… user=… dbname=…"
        ) from None
    return {
        **_KEEPALIVE,
        "application_name": application,
        "target_session_attrs": "read-write",
        **given,
    }


async def connect(
    url: str, application: str, time_limit: float | None = None, *, by_index: bool = False
) -> Connection:
    """One autocommit connection. Raises DatabaseUnreachableError or UsageError.

    `time_limit`: seconds after which the server ends a statement. `by_index`: each of its statements finds its rows by
    an index. Neither counts behind a transaction pooler.
    """
    arguments = connect_arguments(url, application)
    try:
        connection = await psycopg.AsyncConnection.connect(
            **arguments, autocommit=True, row_factory=namedtuple_row
        )
    except psycopg.OperationalError as error:
        raise unreachable(url, error) from None
    try:
        await _furnish(connection, time_limit, by_index=by_index)
    except psycopg.OperationalError as error:
        await connection.close()
        raise unreachable(url, error) from None
    except BaseException:
        await connection.close()
        raise
    return connection


async def _furnish(connection: Connection, time_limit: float | None, *, by_index: bool) -> None:
    arrays.register(connection)
    connection.prepare_threshold = None
    row = await (await connection.execute("SELECT pg_backend_pid() AS pid")).fetchone()
    if row is None or row.pid != connection.info.backend_pid:
        # A pooler makes up the process id it tells. Neither a prepared statement nor a setting may be there
        # next time.
        return
    connection.prepare_threshold = 0
    # Few and large: planning one anew takes longer than running it, compiling it a hundred times as long. Postgres
    # compiles what looks dear, as all does that reads a table with seqscan off.
    settings = ["plan_cache_mode = force_generic_plan", "jit = off"]
    if by_index:
        # Planned once, perhaps while tables are empty. A bitmap has no order: a claim would sort all that is ready.
        settings += ["enable_seqscan = off", "enable_bitmapscan = off"]
    if time_limit is not None:
        settings.append(f"statement_timeout = {round(time_limit * 1000)}")
    statement = "; ".join(f"SET {setting}" for setting in settings)
    await connection.execute(statement.encode(), prepare=False)


def pooled(connection: Connection) -> bool:
    """Whether a transaction pooler is in between: no settings, no prepared statements, no listening."""
    return connection.prepare_threshold is None


def unreachable(url: str, error: psycopg.Error) -> DatabaseUnreachableError:
    """An error that names the server but never the password."""
    given = conninfo.conninfo_to_dict(url)
    where = (
        f"{given.get('host', 'local socket')}:{given.get('port', 5432)}/{given.get('dbname', '')}"
    )
    reason = " ".join(str(error).split())
    reason += "" if reason.endswith(("?", ".")) else "."
    return DatabaseUnreachableError(
        f"cannot connect to Postgres at {where} as {given.get('user', 'the current user')}: {reason} "
        f"Check host, port, user and password, and that the server accepts connections from here."
    )


def translate(error: psycopg.Error) -> Exception:
    """What an error of the driver means for whoever asked."""
    state = error.sqlstate or ""
    if state.startswith(_PASSING) or (isinstance(error, psycopg.OperationalError) and not state):
        return Passing(str(error).strip())
    if state.startswith(("22", "23", "54")):
        return RowRejected(f"{state}: {str(error).strip()}")
    if state in ("42P01", "3F000", "42883", "42703"):
        return SchemaError(
            f"the engine's schema is missing or of another version ({str(error).splitlines()[0]}): "
            f"run `everstep migrate` against this database"
        )
    if state == "42501":
        return DatabaseRefusedError(
            f"{str(error).splitlines()[0]}: the role lacks a privilege; `everstep doctor` lists what it needs",
            state,
        )
    return DatabaseRefusedError(str(error).strip(), state or None)


class Link:
    """One connection, used by one task at a time, opened anew when it breaks.

    `call` runs a function of the connection and raises Passing, RowRejected, … ; `retry` repeats passing
    faults with full jitter until `give_up` says so.
    """

    def __init__(
        self, url: str, application: str, time_limit: float | None = None, *, by_index: bool = False
    ) -> None:
        self._url = url
        self._application = application
        self._time_limit = time_limit
        self._by_index = by_index
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._doubtful = False
        self._refusal: Exception | None = None

    def refuse(self, error: Exception | None) -> None:
        """From now on calls raise this, and open no connection. None: they are made."""
        self._refusal = error

    async def call(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        if self._refusal is not None:
            raise self._refusal
        async with self._lock:
            try:
                connection = await self._open()
                result = await function(connection)
            except psycopg.Error as error:
                await self._drop_if_broken(error)
                raise translate(error) from error
            except DatabaseUnreachableError as error:
                raise Passing(str(error)) from error
            except asyncio.CancelledError:
                # The statement may still be under way; its connection cannot be shared any more.
                await self._drop()
                raise
            if self._doubtful:
                await self._drop()
                raise CommittedLocally
            return result

    async def retry(
        self,
        function: Callable[[Connection], Awaitable[T]],
        give_up: Callable[[], bool] = lambda: False,
    ) -> T:
        """Repeat until it succeeds. Raises DatabaseUnreachableError once `give_up()` is true."""
        wait = 0.05
        while True:
            try:
                return await self.call(function)
            except Passing as error:
                if give_up():
                    raise DatabaseUnreachableError(str(error)) from error
            await asyncio.sleep(random.uniform(0.2, 1.0) * wait)  # noqa: S311
            wait = min(wait * 2, 10.0)

    async def first(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        """The first call of a process: a database that is not there is an error now, not a pause."""
        try:
            return await self.call(function)
        except Passing as error:
            raise DatabaseUnreachableError(str(error)) from None

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(
                self._url, self._application, self._time_limit, by_index=self._by_index
            )
            self._connection.add_notice_handler(self._notice)
            self._doubtful = False
        return self._connection

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # The only sign that a commit was made durable here but not on the standby.
        if notice.sqlstate == "01000" and "committed locally" in (notice.message_detail or ""):
            self._doubtful = True

    async def _drop_if_broken(self, error: psycopg.Error) -> None:
        gone = (error.sqlstate or "").startswith(("08", "57P", "25006"))
        if gone or not error.sqlstate or (self._connection and self._connection.closed):
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
