"""What is asked one by one and done in groups: one batch in flight, whatever arrives meanwhile goes into the next.

There is no timer: alone, a call goes at once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_ROWS = 500
MAX_BYTES = 1_048_576

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class Waiting(Generic[T, R]):
    """One item, and the future of whoever waits for it."""

    item: T
    done: asyncio.Future[R]

    def succeed(self, result: R) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Grouped(ABC, Generic[T, R]):
    """Queue of items. Each resolves to its result, or to its error."""

    def __init__(self) -> None:
        self._queue: deque[Waiting[T, R]] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed: Exception | None = None
        self._flying: list[Waiting[T, R]] = []

    async def put(self, item: T) -> R:
        """Queue an item, and wait for its result."""
        if self._closed is not None:
            raise self._closed
        waiting = Waiting[T, R](item, self._loop.create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.done

    def refuse(self, error: Exception | None) -> None:
        """Nothing more is done: what still waits, and what comes later, gets this error. None: no longer."""
        self._closed = error
        if error is None:
            return
        for waiting in [*self._flying, *self._queue]:
            waiting.fail(error)
        self._queue.clear()

    async def run(self) -> None:
        """Do batches for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                self._flying = self._take()
                if self._flying:
                    await self._flush(self._flying)
                self._flying = []

    @abstractmethod
    def _take(self) -> list[Waiting[T, R]]:
        """The next batch: a bounded part of the queue, from its head; empty if nobody waits any more."""

    @abstractmethod
    async def _flush(self, batch: Sequence[Waiting[T, R]]) -> None:
        """Resolve each of a batch."""

    async def _halve(self, batch: Sequence[Waiting[T, R]]) -> None:
        """The database refuses one of them, and does not say which: all others are fine."""
        middle = len(batch) // 2
        await self._flush(batch[:middle])
        await self._flush(batch[middle:])
