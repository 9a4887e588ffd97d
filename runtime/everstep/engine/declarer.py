"""Declares the queues of an App, again and again: what the code says holds from the moment its version is current.

Only reads, unless something has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from everstep.queues import Queue
from everstep.store.connection import Connection, Link
from everstep.store.queues import Queues

DECLARE_SECONDS = 5.0


class Declarer:
    """The queues a worker listens to, and what its App declares of queues."""

    name = "declarer"

    def __init__(
        self,
        link: Link,
        queues: Queues,
        version: str,
        *,
        listened: Sequence[str],
        declared: Iterable[Queue],
    ) -> None:
        self._link = link
        self._queues = queues
        self._version = version
        self._listened = listened
        self._declared = tuple(declared)
        self.interval = DECLARE_SECONDS
        self.wake = asyncio.Event()

    async def declare(self, connection: Connection) -> None:
        """Make them known, and the declarations valid if it is for this version to say."""
        await self._queues.declare(connection, self._version, self._listened, self._declared)

    async def run_once(self) -> int:
        await self._link.call(self._round)
        return 0

    async def _round(self, connection: Connection) -> None:
        await self.declare(connection)
        await self._queues.forget_partitions(connection)
