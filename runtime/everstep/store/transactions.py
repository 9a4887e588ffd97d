"""Runs transactional steps: a user's SQL and the record of its outcome commit together, or neither does.

In the engine's database the record is the step's checkpoint, behind the fence. In another one it is a row of
everstep_transaction there, under a key that the engine made durable before. Whatever happens to the connection,
the transaction is tried again as a whole: if it had been committed after all, it meets its own record and takes
the outcome from there. So its effects happen exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from everstep.errors import Fenced
from everstep.store.connection import connect_arguments, unreachable
from everstep.store.places import Book, Place, begin, check_open
from everstep.store.sessions import AsyncTx, Session, Sessions, Tx, async_row_of, row_of
from everstep.store.tries import Tries, is_passing

PATIENCE_SECONDS = 10.0
"""For a free connection. Then we ask whether the database is away, or only busy."""


class Transactor:
    """Runs transactions on one database."""

    def __init__(self, url: str, book: Book, *, connections: int) -> None:
        self._url = url
        self._book = book
        self._sessions = Sessions(
            connect_arguments(url, "everstep transaction"),
            connections=connections,
            patience=PATIENCE_SECONDS,
        )

    async def run(self, place: Place, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run an async transaction. Returns the recorded value; raises Fenced, or the user's error."""
        tries = Tries(self._url, place.name)
        while True:
            try:
                async with self._sessions.session(place.form) as session:
                    await self._book.open(session.tx)
                    return await self._try(session, place, call, again=tries.again)
            except PoolTimeout:
                await self._look_for_it(tries)
            except Exception as error:  # noqa: BLE001
                tries.failed(error)
            place.check()
            await asyncio.sleep(tries.pause())

    def run_plain(self, place: Place, call: Callable[[Any], Any]) -> Any:
        """The same for a plain function, in its own thread."""
        tries = Tries(self._url, place.name)
        while True:
            try:
                with self._sessions.plain_session(place.form) as session:
                    self._book.open_plain(session.tx)
                    return self._try_plain(session, place, call, again=tries.again)
            except PoolTimeout:
                self._look_for_it_plain(tries)
            except Exception as error:  # noqa: BLE001
                tries.failed(error)
            place.check()
            time.sleep(tries.pause())

    async def greet(self) -> None:
        """Connect, and see that the book is there. Raises what is wrong with it."""
        try:
            await self._sessions.probe()
        except psycopg.OperationalError as error:
            raise unreachable(self._url, error) from None
        async with self._sessions.session(None) as session:
            await self._book.open(session.tx)

    async def close(self) -> None:
        await self._sessions.close()

    async def _try(
        self,
        session: Session[AsyncTx],
        place: Place,
        call: Callable[[Any], Awaitable[Any]],
        *,
        again: bool,
    ) -> Any:
        if (again or place.mark.seen) and (row := await self._recorded(session.tx, place)):
            return place.value(row.output)
        try:
            return await self._once(session, place, call)
        except Exception as error:
            # What fails may have been done, and fail because of that: by an attempt whose reply was lost, or
            # by the worker that had this workflow before.
            if is_passing(error) or not (row := await self._recorded(session.tx, place)):
                raise
            return place.value(row.output)

    def _try_plain(
        self, session: Session[Tx], place: Place, call: Callable[[Any], Any], *, again: bool
    ) -> Any:
        if (again or place.mark.seen) and (row := self._recorded_plain(session.tx, place)):
            return place.value(row.output)
        try:
            return self._once_plain(session, place, call)
        except Exception as error:
            if is_passing(error) or not (row := self._recorded_plain(session.tx, place)):
                raise
            return place.value(row.output)

    async def _once(
        self, session: Session[AsyncTx], place: Place, call: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        began, tx, book = time.monotonic(), session.tx, self._book
        async with tx.transaction():
            await tx.execute(begin(place))
            value = await call(session.given)
            await session.flush()
            check_open(tx, place)
            body, value = place.payload.round_trip(value, place.max_payload)
            arguments = self._arguments(place, place.stored(body), time.monotonic() - began)
            place.check()
            if book.fence and await async_row_of(tx, book.fence, arguments) is None:
                raise Fenced
            if await async_row_of(tx, book.record, arguments) is not None:
                return value
            raise psycopg.Rollback
        row = await self._recorded(tx, place)
        return place.value(row.output)

    def _once_plain(self, session: Session[Tx], place: Place, call: Callable[[Any], Any]) -> Any:
        began, tx, book = time.monotonic(), session.tx, self._book
        with tx.transaction():
            tx.execute(begin(place))
            value = call(session.given)
            session.flush()
            check_open(tx, place)
            body, value = place.payload.round_trip(value, place.max_payload)
            arguments = self._arguments(place, place.stored(body), time.monotonic() - began)
            place.check()
            if book.fence and row_of(tx, book.fence, arguments) is None:
                raise Fenced
            if row_of(tx, book.record, arguments) is not None:
                return value
            raise psycopg.Rollback
        row = self._recorded_plain(tx, place)
        return place.value(row.output)

    async def _recorded(self, tx: AsyncTx, place: Place) -> Any:
        return await async_row_of(tx, self._book.recorded, self._arguments(place))

    def _recorded_plain(self, tx: Tx, place: Place) -> Any:
        return row_of(tx, self._book.recorded, self._arguments(place))

    def _arguments(
        self, place: Place, body: bytes = b"", seconds: float = 0.0
    ) -> dict[str, object]:
        return {
            "id": place.workflow_id,
            "branch": place.branch,
            "seq": place.seq,
            "name": place.name,
            "codec": place.encoding.id,
            "output": body,
            "seconds": seconds,
            **self._book.arguments(place),
        }

    async def _look_for_it(self, tries: Tries) -> None:
        """No connection was to be had: is the database away, or only busy?"""
        try:
            await self._sessions.probe()
        except psycopg.OperationalError as error:
            tries.away(error)

    def _look_for_it_plain(self, tries: Tries) -> None:
        try:
            self._sessions.probe_plain()
        except psycopg.OperationalError as error:
            tries.away(error)
