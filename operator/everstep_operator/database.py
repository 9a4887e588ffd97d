"""Postgres as the operator sees it: the views `v1_*` and four functions of the contract.

The only module with SQL. One connection per database, opened when needed; every statement is
cut off after two seconds, because an answer that comes late is an answer that is not known.
Every fault becomes `Unknown` with a reason and a remedy; none becomes a zero.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from everstep_operator.observed import (
    Database,
    Known,
    Routing,
    State,
    Unknown,
    Unmigrated,
    Version,
    Worker,
)
from everstep_operator.reasons import Reason

Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

_CONNECT_SECONDS = 3
_ANSWER_SECONDS = 8.0

_ROUTING = """
    SELECT current, revision, changed_at, database_time, in_recovery, system_identifier,
           engine_schema
      FROM {schema}.v1_routing
"""
_VERSIONS = """
    SELECT version, state, workers, running, queued, parked, created_at, draining_since,
           drained_since, oldest, next_wake, sample
      FROM {schema}.v1_versions
"""
_WORKERS = "SELECT pod, version, state FROM {schema}.v1_workers"


class RoutingMovedError(Exception):
    """Somebody else changed the routing since it was read."""


@dataclass(slots=True)
class Databases:
    """Connection pools by connection string; one that is not used any more is closed."""

    pools: dict[str, Pool] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    """Which connection string an object (by its key) uses now."""
    claims: dict[str, tuple[str, str, datetime]] = field(default_factory=dict)
    """By key of an object: its database (a digest), its schema, and when the object was made."""

    def claim(self, key: str, url: str, schema: str, made: datetime) -> str | None:
        """The older object that has this schema of this database already, if there is one.

        Two would promote their versions over each other's for ever. Told by what the connection
        strings say of server and database: another name of the same server is not seen.
        """
        self.claims[key] = place = (_digest(_address(url)), schema, made)
        elder = min((c[2], k) for k, c in self.claims.items() if c[:2] == place[:2])
        return elder[1] if elder[1] != key else None

    async def read(self, key: str, url: str, schema: str) -> Database:
        """All the operator knows about one application, from one snapshot."""
        try:
            pool = await self._pool(key, url)
            async with _transaction(pool) as connection:
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                return await _read(connection, schema)
        except PoolTimeout:
            return await _reason(url)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it is not known
            return _unknown(error)

    async def set_routing(self, key: str, schema: str, version: str, expected: int) -> None:
        statement = "SELECT {schema}.set_routing(%s, NULL, 0, %s) AS answer"
        try:
            await self._call(key, schema, statement, [version, expected])
        except psycopg.Error as error:
            if error.sqlstate == "EV409":
                raise RoutingMovedError(version) from error
            raise

    async def mark_drained(self, key: str, schema: str, version: str) -> bool:
        statement = "SELECT {schema}.mark_drained(%s) AS answer"
        return bool(await self._call(key, schema, statement, [version]))

    async def retire_version(self, key: str, schema: str, version: str) -> bool:
        statement = "SELECT {schema}.retire_version(%s) AS answer"
        return bool(await self._call(key, schema, statement, [version]))

    async def declare_dead(self, key: str, schema: str, pod: str) -> int:
        statement = "SELECT {schema}.declare_dead(%s) AS answer"
        return int(await self._call(key, schema, statement, [pod]))

    async def forget(self, key: str) -> None:
        """The object is gone: its pool too, unless another object uses the same database."""
        self.claims.pop(key, None)
        await self._leave(key)

    async def _leave(self, key: str) -> None:
        url = self.users.pop(key, None)
        if url is not None and url not in self.users.values():
            pool = self.pools.pop(_digest(url), None)
            if pool is not None:
                await pool.close()

    async def close(self) -> None:
        for key in list(self.users):
            await self.forget(key)

    async def _call(self, key: str, schema: str, statement: str, values: list[Any]) -> Any:
        pool = await self._pool(key, self.users[key])
        async with _transaction(pool) as connection:
            cursor = await connection.execute(_named(statement, schema), values)
            row = await cursor.fetchone()
        return row["answer"] if row else None

    async def _pool(self, key: str, url: str) -> Pool:
        if self.users.get(key) != url:
            await self._leave(key)
            self.users[key] = url
        pool = self.pools.get(_digest(url))
        if pool is None:
            psycopg.conninfo.conninfo_to_dict(url)  # a wrong string is the user's, said at once
            pool = self.pools[_digest(url)] = _new_pool(url)
            await pool.open()
        return pool


def _new_pool(url: str) -> Pool:
    return AsyncConnectionPool(
        url,
        connection_class=psycopg.AsyncConnection[DictRow],
        kwargs={
            "application_name": "everstep-operator",
            "connect_timeout": _CONNECT_SECONDS,
            "prepare_threshold": None,  # PgBouncer in transaction mode
            "row_factory": dict_row,
        },
        min_size=0,
        max_size=1,
        timeout=_CONNECT_SECONDS + 1,
        max_idle=120,
        reconnect_timeout=_CONNECT_SECONDS,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


@asynccontextmanager
async def _transaction(pool: Pool) -> AsyncIterator[Connection]:
    # A server that stands still cuts nothing off: the clock of this process has to.
    async with (
        asyncio.timeout(_ANSWER_SECONDS),
        pool.connection() as connection,
        connection.transaction(),
    ):
        # Not a connection option: a pooler in between may refuse those.
        await connection.execute("SET LOCAL statement_timeout = '2s'")
        yield connection


async def _read(connection: Connection, schema: str) -> Database:
    cursor = await connection.execute("SELECT pg_is_in_recovery() AS standby")
    row = await cursor.fetchone()
    if row is None or row["standby"]:
        return _STANDBY
    try:
        cursor = await connection.execute(_named(_ROUTING, schema))
        routing = await cursor.fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return Unmigrated()
    if routing is None:
        return Unknown(Reason.ENGINE_MISMATCH, "v1_routing has no row: run `everstep doctor`")
    if routing.pop("in_recovery"):
        return _STANDBY
    versions = await (await connection.execute(_named(_VERSIONS, schema))).fetchall()
    workers = await (await connection.execute(_named(_WORKERS, schema))).fetchall()
    return Known(
        routing=Routing(**{**routing, "system_identifier": str(routing["system_identifier"])}),
        versions=tuple(_version(row) for row in versions),
        workers=tuple(Worker(**row) for row in workers),
    )


_STANDBY = Unknown(
    Reason.STANDBY,
    "the connection string leads to a standby: point it at the primary"
    " (for example target_session_attrs=read-write)",
)


def _version(row: dict[str, Any]) -> Version:
    state, sample = State(row.pop("state")), tuple(row.pop("sample") or ())
    return Version(state=state, sample=sample, **row)


def _named(statement: str, schema: str) -> sql.Composed:
    return sql.SQL(statement).format(schema=sql.Identifier(schema))


async def _reason(url: str) -> Unknown:
    """A pool says only that time is up; one plain attempt says why."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_CONNECT_SECONDS)
        await connection.close()
    except psycopg.Error as error:
        return _unknown(error)
    return Unknown(Reason.UNREACHABLE, "the database is busy: it took too long to connect")


def _digest(url: str) -> str:
    """Pools are kept under a digest: a connection string holds a password."""
    return hashlib.sha256(url.encode()).hexdigest()


def _address(url: str) -> str:
    """Where a connection string leads, whoever connects and however."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return url  # reading says what is wrong with it
    hosts = str(given.get("host") or given.get("hostaddr") or "").lower().split(",")
    ports = [port or "5432" for port in str(given.get("port") or "").split(",")]
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return repr((hosts, ports, given.get("dbname") or given.get("user"), given.get("service")))


def _unknown(error: Exception) -> Unknown:
    """Never with the driver's own connection string: only its first line, which has none."""
    if isinstance(error, TimeoutError):
        return Unknown(
            Reason.UNREACHABLE, f"the database gives no answer within {_ANSWER_SECONDS:g} s"
        )
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    match error:
        case errors.InsufficientPrivilege():
            remedy = "grant the operator's role what `everstep migrate --roles` grants"
            return Unknown(Reason.INSUFFICIENT_PRIVILEGE, f"{said}: {remedy}")
        case errors.UndefinedColumn() | errors.UndefinedTable() | TypeError():
            remedy = "the engine's schema is older or newer than this operator understands"
            return Unknown(Reason.ENGINE_MISMATCH, f"{remedy}: {said}")
        case psycopg.ProgrammingError() if error.sqlstate is None:
            return Unknown(Reason.INVALID_URL, "the Secret holds no valid connection string")
        case _:
            remedy = "check host, port, login and network policy of the connection string"
            return Unknown(Reason.UNREACHABLE, f"the database does not answer ({remedy}): {said}")
