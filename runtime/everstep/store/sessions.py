"""Connections for transactional steps, in the form that the step's function asks for: psycopg, or SQLAlchemy over it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

if TYPE_CHECKING:
    from everstep.store.alchemy import Alchemy

AsyncTx = psycopg.AsyncConnection[Any]
Tx = psycopg.Connection[Any]
T = TypeVar("T")
Form = type[Any] | None
"""What a function's first parameter is: a class of SQLAlchemy, or None for a psycopg connection."""


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Session(Generic[T]):
    """`tx`: the psycopg connection, in autocommit. `given`: what the user's function gets, over that connection.

    `flush`: sends what `given` has kept back.
    """

    tx: T
    given: Any
    flush: Callable[[], Any]


class Sessions:
    """A few connections to one database, opened when they are first asked for.

    `patience`: seconds to wait for a free one.
    """

    def __init__(self, arguments: dict[str, Any], *, connections: int, patience: float) -> None:
        self._arguments = {**arguments, "autocommit": True, "prepare_threshold": None}
        self._connections = connections
        options: dict[str, Any] = {
            "kwargs": {**self._arguments, "row_factory": namedtuple_row},
            "min_size": 0,
            "max_size": connections,
            "timeout": patience,
            "open": False,
        }
        self._async_pool: AsyncConnectionPool[AsyncTx] = AsyncConnectionPool(
            **options, check=AsyncConnectionPool.check_connection
        )
        self._pool: ConnectionPool[Tx] = ConnectionPool(
            **options, check=ConnectionPool.check_connection
        )
        self._alchemy: Alchemy | None = None
        self._lock = threading.Lock()

    @asynccontextmanager
    async def session(self, form: Form) -> AsyncIterator[Session[AsyncTx]]:
        """One for a coroutine."""
        if form is not None:
            async with self._alchemist().session(form) as session:
                yield session
            return
        await self._async_pool.open()
        async with self._async_pool.connection() as tx:
            yield Session(tx, tx, _nothing)

    @contextmanager
    def plain_session(self, form: Form) -> Iterator[Session[Tx]]:
        """One for a plain function, in its own thread."""
        if form is not None:
            with self._alchemist().plain_session(form) as session:
                yield session
            return
        self._pool.open()
        with self._pool.connection() as tx:
            yield Session(tx, tx, lambda: None)

    async def probe(self) -> None:
        """Connect once, beside the pool. Raises psycopg.OperationalError with the reason why that fails."""
        await (await psycopg.AsyncConnection.connect(**self._arguments)).close()

    def probe_plain(self) -> None:
        """The same for a thread."""
        psycopg.connect(**self._arguments).close()

    async def close(self) -> None:
        await self._async_pool.close()
        await asyncio.to_thread(self._pool.close)
        if self._alchemy is not None:
            await self._alchemy.close()

    def _alchemist(self) -> Alchemy:
        with self._lock:
            if self._alchemy is None:
                # Here, because SQLAlchemy is loaded only where a transaction asks for it.
                from everstep.store.alchemy import Alchemy  # noqa: PLC0415

                self._alchemy = Alchemy(self._arguments, connections=self._connections)
            return self._alchemy


def row_of(tx: Tx, statement: bytes, arguments: dict[str, object]) -> Any:
    """The first row, or None; by name, whoever made the connection."""
    with tx.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(statement, arguments).fetchone()


async def async_row_of(tx: AsyncTx, statement: bytes, arguments: dict[str, object]) -> Any:
    """The same in a coroutine."""
    async with tx.cursor(row_factory=namedtuple_row) as cursor:
        await cursor.execute(statement, arguments)
        return await cursor.fetchone()
