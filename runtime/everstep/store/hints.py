"""Hints over LISTEN and NOTIFY: empty, coalesced, and never needed. Polling is the truth.

A hint is never sent inside an engine transaction: a transaction that notifies commits under one global
lock. One process sends at most one hint per channel every ten milliseconds, on a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import StrEnum

import psycopg
from psycopg import sql

from everstep.errors import DatabaseUnreachableError, EverstepError
from everstep.store.connection import Connection, Link, connect, pooled

log = logging.getLogger("everstep")

COALESCE_SECONDS = 0.01
FAREWELL_SECONDS = 2.0
LATER_SECONDS = (0.02, 0.1, 0.5)


class Channel(StrEnum):
    """What a hint is about."""

    READY = "ready"
    DONE = "done"


class Notifier:
    """Sends hints. `hint` costs nothing; the sending happens in `run`."""

    def __init__(self, link: Link, schema: str) -> None:
        self._link = link
        self._schema = schema
        self._due: set[Channel] = set()
        self._arrived = asyncio.Event()
        self._sending = False
        self._promised: dict[Channel, float] = {}

    def hint(self, channel: Channel) -> None:
        self._due.add(channel)
        self._arrived.set()

    def hint_later(self, channel: Channel) -> None:
        """Of what was written in a transaction that somebody else commits, who knows when: most do so soon.

        Whoever commits later than that is found by polling.
        """
        loop = asyncio.get_running_loop()
        for after in LATER_SECONDS:
            loop.call_later(after, self.hint, channel)
        self._promised[channel] = loop.time() + LATER_SECONDS[-1]

    async def run(self) -> None:
        """Send hints for ever. A fault only makes someone poll."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            due, self._due = self._due, set()
            await self.flush(due)
            await asyncio.sleep(COALESCE_SECONDS)

    async def flush(self, due: set[Channel]) -> None:
        """Send hints now."""
        self._sending = True
        try:
            await self._link.call(lambda connection: self._send(connection, due))
        except Exception as error:  # noqa: BLE001
            # Whatever it is, nothing but a hint is lost.
            log.info("notifier: no hint sent, others poll: %s", error)
        finally:
            self._sending = False

    async def finish(self) -> None:
        """Send what is due before its sender leaves: a short-lived client's start is seen at once too.

        A send under way comes to its end; cancelled while it connects, it would leave a session behind.
        """
        now = asyncio.get_running_loop().time()
        self._due |= {channel for channel, until in self._promised.items() if now < until}
        due, self._due = self._due, set()
        if due or self._sending:
            with contextlib.suppress(TimeoutError, EverstepError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self.flush(due)

    async def _send(self, connection: Connection, due: set[Channel]) -> None:
        names = [_name(self._schema, channel) for channel in sorted(due)]
        await connection.execute(
            "SELECT pg_notify(name, '') FROM unnest(%s::text[]) AS t(name)", [names]
        )


class Ear:
    """Listens on a connection of its own; after every reconnect it says "look again" once by itself."""

    def __init__(self, url: str, schema: str, calls: dict[Channel, Callable[[], None]]) -> None:
        self._url = url
        self._calls = {_name(schema, channel): call for channel, call in calls.items()}

    async def run(self) -> None:
        """Listen for ever, reconnecting with growing pauses."""
        wait = 0.1
        while True:
            try:
                connection = await connect(self._url, "everstep listen")
            except DatabaseUnreachableError:
                await asyncio.sleep(wait)
                wait = min(wait * 2, 10.0)
                continue
            try:
                if pooled(connection):
                    # The pooler would take it, and leave the server's session listening for whoever has it next.
                    log.info("listener: behind a pooler nobody listens, polling instead")
                    return
                for name in self._calls:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(name)))
                wait = 0.1
                for call in self._calls.values():
                    call()
                async for notice in connection.notifies():
                    self._calls[notice.channel]()
            except psycopg.NotSupportedError:
                log.info("listener: this connection cannot listen (a pooler?), polling instead")
                return
            except psycopg.Error as error:
                reason = " ".join(str(error).split())
                log.info("listener: connection lost, polling meanwhile: %s", reason)
                await asyncio.sleep(wait)
            finally:
                await connection.close()


def _name(schema: str, channel: Channel) -> str:
    return f"{schema}_{channel}"
