"""Runs transactional steps: a user's SQL and the step's checkpoint commit together, or neither does.

Whatever happens to the connection, the transaction is tried again as a whole: if it had been committed after
all, it meets its own checkpoint and takes the recorded result. So its effects happen exactly once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
from psycopg import pq
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from everstep.codec import JSON, Payload
from everstep.errors import Fenced, UsageError
from everstep.store.connection import Passing, connect_arguments, translate
from everstep.store.statements import statements

TRIES = 10
"""Attempts at a transaction that fails for a passing reason, before the step's own retry policy decides."""

AsyncTx = psycopg.AsyncConnection[Any]
Tx = psycopg.Connection[Any]


class Isolation(StrEnum):
    """Isolation levels of Postgres."""

    READ_COMMITTED = "READ COMMITTED"
    REPEATABLE_READ = "REPEATABLE READ"
    SERIALIZABLE = "SERIALIZABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a transaction's checkpoint goes, and how its result is encoded."""

    workflow_id: str
    epoch: int
    branch: str
    seq: int
    name: str
    attempt: int
    payload: Payload[Any]
    max_payload: int
    isolation: Isolation


class Transactor:
    """Connections for transactional steps, opened when the first one runs."""

    def __init__(self, url: str, schema: str, me: UUID, *, connections: int) -> None:
        self._arguments = connect_arguments(url, "everstep transaction")
        self._sql = statements(schema)
        self._me = me
        self._connections = connections
        self._async_pool: AsyncConnectionPool[AsyncTx] | None = None
        self._pool: ConnectionPool[Tx] | None = None

    async def run(self, place: Place, call: Callable[[AsyncTx], Awaitable[Any]]) -> Any:
        """Run an async transaction. Returns the recorded value; raises Fenced, or the user's error."""
        for attempt in range(1, TRIES + 1):
            try:
                async with (await self._opened()).connection() as tx:
                    return await self._once(tx, place, call)
            except psycopg.Error as error:
                _raise_unless_passing(error, attempt)
            await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    def run_plain(self, place: Place, call: Callable[[Tx], Any]) -> Any:
        """The same for a plain function, in its own thread."""
        for attempt in range(1, TRIES + 1):
            try:
                with self._opened_plain().connection() as tx:
                    return self._once_plain(tx, place, call)
            except psycopg.Error as error:
                _raise_unless_passing(error, attempt)
            time.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        if self._async_pool is not None:
            await self._async_pool.close()
        if self._pool is not None:
            await asyncio.to_thread(self._pool.close)

    async def _once(
        self, tx: AsyncTx, place: Place, call: Callable[[AsyncTx], Awaitable[Any]]
    ) -> Any:
        began = time.monotonic()
        async with tx.transaction():
            await tx.execute(_begin(place))
            value = await call(tx)
            _check_open(tx, place)
            body, value = place.payload.round_trip(value, place.max_payload)
            arguments = self._arguments_of(place, body, time.monotonic() - began)
            if await (await tx.execute(self._sql["fence"], arguments)).fetchone() is None:
                raise Fenced
            recorded = await tx.execute(self._sql["record_transaction"], arguments)
            if await recorded.fetchone() is not None:
                return value
            raise psycopg.Rollback
        row = await (await tx.execute(self._sql["recorded_transaction"], arguments)).fetchone()
        return place.payload.decode(row.output) if row else None

    def _once_plain(self, tx: Tx, place: Place, call: Callable[[Tx], Any]) -> Any:
        began = time.monotonic()
        with tx.transaction():
            tx.execute(_begin(place))
            value = call(tx)
            _check_open(tx, place)
            body, value = place.payload.round_trip(value, place.max_payload)
            arguments = self._arguments_of(place, body, time.monotonic() - began)
            if tx.execute(self._sql["fence"], arguments).fetchone() is None:
                raise Fenced
            if tx.execute(self._sql["record_transaction"], arguments).fetchone() is not None:
                return value
            raise psycopg.Rollback
        row = tx.execute(self._sql["recorded_transaction"], arguments).fetchone()
        return place.payload.decode(row.output) if row else None

    def _arguments_of(self, place: Place, body: bytes, seconds: float) -> dict[str, object]:
        return {
            "id": place.workflow_id,
            "epoch": place.epoch,
            "me": self._me,
            "branch": place.branch,
            "seq": place.seq,
            "name": place.name,
            "attempt": place.attempt,
            "codec": JSON,
            "output": body,
            "seconds": seconds,
        }

    async def _opened(self) -> AsyncConnectionPool[AsyncTx]:
        if self._async_pool is None:
            self._async_pool = AsyncConnectionPool(
                kwargs=self._pool_arguments(),
                min_size=0,
                max_size=self._connections,
                open=False,
                check=AsyncConnectionPool.check_connection,
            )
            await self._async_pool.open()
        return self._async_pool

    def _opened_plain(self) -> ConnectionPool[Tx]:
        if self._pool is None:
            self._pool = ConnectionPool(
                kwargs=self._pool_arguments(),
                min_size=0,
                max_size=self._connections,
                open=True,
                check=ConnectionPool.check_connection,
            )
        return self._pool

    def _pool_arguments(self) -> dict[str, Any]:
        return {
            **self._arguments,
            "autocommit": True,
            "row_factory": namedtuple_row,
            "prepare_threshold": None,
        }


def _begin(place: Place) -> bytes:
    return f"SET TRANSACTION ISOLATION LEVEL {place.isolation.value}".encode()


def _check_open(tx: AsyncTx | Tx, place: Place) -> None:
    if tx.info.transaction_status is not pq.TransactionStatus.INTRANS:
        raise UsageError(
            f"transaction {place.name} ended its transaction itself: everstep commits it, together with the "
            f"checkpoint. Leave COMMIT and ROLLBACK away; to roll back, raise an exception."
        )


def _raise_unless_passing(error: psycopg.Error, attempt: int) -> None:
    if attempt >= TRIES or not isinstance(translate(error), Passing):
        raise error


def _pause(attempt: int) -> float:
    return float(random.uniform(0.2, 1.0) * min(0.02 * 2**attempt, 2.0))  # noqa: S311
