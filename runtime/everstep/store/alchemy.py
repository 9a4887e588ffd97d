"""SQLAlchemy sessions and connections over a psycopg connection in a transaction that everstep commits.

The only module that imports SQLAlchemy, and it is imported only where a transaction asks for one. The engines are
in autocommit: psycopg's own transaction, around what the user does, is the one that counts, and psycopg refuses to
commit or roll back within it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session as OrmSession

from everstep.errors import UsageError
from everstep.store.sessions import AsyncTx, Session, Tx

_DIALECT = "postgresql+psycopg://"
_BUSY_SECONDS = 3_600
"""Longer than anyone waits for a free connection: a busy pool is no error."""


def checked_form(form: type[Any], name: str, *, is_async: bool) -> type[Any]:
    """The class, if a transaction of this colour can be given one. Raises UsageError."""
    known = (AsyncSession, AsyncConnection) if is_async else (OrmSession, Connection)
    if not issubclass(form, known):
        takes = " or ".join(each.__name__ for each in known)
        colour = "async" if is_async else "a plain function"
        raise UsageError(f"transaction {name} is {colour}: its first parameter is {takes}")
    return form


class Alchemy:
    """The engines of one database, one per colour."""

    def __init__(self, arguments: dict[str, Any], *, connections: int) -> None:
        options: dict[str, Any] = {
            "isolation_level": "AUTOCOMMIT",
            "pool_size": connections,
            "max_overflow": 0,
            "pool_timeout": _BUSY_SECONDS,
            "pool_pre_ping": True,
        }

        async def connect() -> AsyncTx:
            return await psycopg.AsyncConnection.connect(**arguments)

        self._async_engine = create_async_engine(_DIALECT, async_creator=connect, **options)
        self._engine = create_engine(
            _DIALECT, creator=lambda: psycopg.connect(**arguments), **options
        )

    @asynccontextmanager
    async def session(self, form: type[Any]) -> AsyncIterator[Session[AsyncTx]]:
        """A session or connection of SQLAlchemy's for a coroutine."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._async_engine.connect())
            except OperationalError as error:
                raise PoolTimeout(str(error.orig)) from error
            tx: Any = (await connection.get_raw_connection()).driver_connection
            if issubclass(form, AsyncConnection):
                yield Session(tx, connection, _flushed)
            else:
                async with form(bind=connection) as session:
                    yield Session(tx, session, session.flush)

    @contextmanager
    def plain_session(self, form: type[Any]) -> Iterator[Session[Tx]]:
        """The same for a plain function, in its own thread."""
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._engine.connect())
            except OperationalError as error:
                raise PoolTimeout(str(error.orig)) from error
            tx: Any = connection.connection.driver_connection
            if issubclass(form, Connection):
                yield Session(tx, connection, lambda: None)
            else:
                with form(bind=connection) as session:
                    yield Session(tx, session, session.flush)

    async def close(self) -> None:
        await self._async_engine.dispose()
        self._engine.dispose()


async def _flushed() -> None:
    return
