"""Waiting for workflows to finish: one poller for all that a client waits for, hurried by hints."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict

from everstep.store.connection import Link, Passing
from everstep.store.models import Outcome
from everstep.store.workflows import Workflows

POLL_SECONDS = (0.02, 1.0)
MAX_IDS = 5_000


class Outcomes:
    """Futures of outcomes by workflow id."""

    def __init__(self, link: Link, workflows: Workflows) -> None:
        self._link = link
        self._workflows = workflows
        self._waiters: defaultdict[str, list[asyncio.Future[Outcome]]] = defaultdict(list)
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._new: list[str] = []
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed: Exception | None = None
        self._pause = POLL_SECONDS[0]

    async def wait(self, workflow_id: str, *, look_now: bool = True) -> Outcome:
        """The outcome, as soon as there is one. Wrap in asyncio.timeout to wait no longer than that."""
        if self._closed is not None:
            raise self._closed
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiters[workflow_id].append(future)
        self._wake.set()
        if self._pause > POLL_SECONDS[0]:
            # It has grown for those that last; where nobody hints, this one would wait as long.
            self._pause = POLL_SECONDS[0]
            self._hurry.set()
        if look_now:
            self._new.append(workflow_id)
            self._arrived.set()
        try:
            return await future
        finally:
            waiters = self._waiters[workflow_id]
            if future in waiters:
                waiters.remove(future)
            if not waiters:
                del self._waiters[workflow_id]

    def hint(self) -> None:
        """Something finished somewhere."""
        if self._waiters:
            self._hurry.set()

    def ended(self, outcome: Outcome) -> None:
        """A workflow of this very process finished: no need to ask the database."""
        for future in self._waiters.get(outcome.id, ()):
            if not future.done():
                future.set_result(outcome)

    def refuse(self, error: Exception | None) -> None:
        """Nobody polls: whoever waits, and whoever asks later, gets this error. None: somebody does."""
        self._closed = error
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        for futures in self._waiters.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    async def run(self) -> None:
        """Ask for ever, as long as somebody waits."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_at_new())
            group.create_task(self._poll())

    async def _look_at_new(self) -> None:
        """Once, and at once, about each that somebody begins to wait for: it may have finished long ago."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            ids, self._new = self._new, []
            for first in range(0, len(ids), MAX_IDS):
                await self._ask(ids[first : first + MAX_IDS])

    async def _poll(self) -> None:
        """About all that somebody waits for: ever more slowly, at once after a hint."""
        low, high = POLL_SECONDS
        while True:
            await self._wake.wait()
            if not self._waiters:
                self._wake.clear()
                self._pause = low
                continue
            try:
                async with asyncio.timeout(random.uniform(0.5, 1.0) * self._pause):  # noqa: S311
                    await self._hurry.wait()
            except TimeoutError:
                self._pause = min(self._pause * 1.5, high)
            else:
                self._hurry.clear()
            began = time.perf_counter()
            ids = list(self._waiters)[:MAX_IDS]
            if await self._ask(ids):
                self._pause = low
            self._put_last(ids)
            # However many wait and however often they are hurried: one part asking, nine parts pause. With a
            # limit: an event loop blocked meanwhile makes the question look long.
            await asyncio.sleep(min(9 * (time.perf_counter() - began), high))

    async def _ask(self, ids: list[str]) -> int:
        """How many of them have finished; whoever waits for these is told."""
        if not ids:
            return 0
        try:
            found = await self._link.call(lambda c: self._workflows.outcomes(c, ids))
        except Passing:
            await asyncio.sleep(0.1)
            return 0
        except Exception as error:  # noqa: BLE001
            # Asking again would not help: whoever waits should know, rather than wait for ever.
            self._give_up(error)
            return 0
        for outcome in found:
            self.ended(outcome)
        return len(found)

    def _put_last(self, ids: list[str]) -> None:
        """Those that were asked about; where more wait than one question takes, the others are next."""
        if len(ids) < MAX_IDS:
            return
        for id_ in ids:
            if id_ in self._waiters:
                self._waiters[id_] = self._waiters.pop(id_)
