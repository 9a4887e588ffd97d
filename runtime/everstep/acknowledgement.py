"""The database's answer to a group of rows: awaited by many, cancelled by none of them."""

from __future__ import annotations

import asyncio
from datetime import datetime


class Acknowledgement:
    """Given once, with the database's time of the commit. Cheaper to share than a shielded future."""

    __slots__ = ("_waiters", "at")

    def __init__(self) -> None:
        self.at: datetime | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def give(self, at: datetime) -> None:
        """Wake everybody who waits. Giving it again changes nothing."""
        if self.at is None:
            self.at = at
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def wait(self) -> datetime:
        """The database's time of the commit, once it is durable."""
        if self.at is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        assert self.at is not None
        return self.at
