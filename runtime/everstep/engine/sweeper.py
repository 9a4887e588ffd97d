"""Sweeps: declare the silent dead, free what they held, wake what is due. Level-triggered, by whoever's turn it is.

Nobody is special: each worker asks for the ticket, and re-derives everything from the tables. A worker is
declared dead only by one that has seen its lease unchanged for half its length on its own clock, so that a
jump of the database's clock cannot take the whole fleet down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from everstep.engine.runner import Runner
from everstep.errors import DEADLINE_EXCEEDED, Failure
from everstep.store.connection import Connection, Link
from everstep.store.messages import Messages
from everstep.store.runs import WAKE_AT_ONCE, Runs
from everstep.store.workers import Lease, Workers
from everstep.store.workflows import Workflows

log = logging.getLogger("everstep")

TIMER_SECONDS = 0.4
"""How often a worker looks for timers that are due; a sleep is late by at most about this much."""

TURN_SECONDS = 1.0
"""How long one worker goes on waking those that are due before the ticket is anybody's again."""

RARER_THAN_LONG = 30
"""A look at all that wait is followed by a pause of so many times its length."""


class Suspicion:
    """Leases of other workers, and since when, by this process's clock, each has stood unchanged."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: dict[UUID, tuple[datetime, float]] = {}

    def suspects(self, leases: list[Lease], now: float) -> list[UUID]:
        """Workers whose lease has run out and has not moved for `patience` seconds."""
        self._seen = {
            lease.worker_id: before
            if (before := self._seen.get(lease.worker_id)) and before[0] == lease.until
            else (lease.until, now)
            for lease in leases
        }
        return [
            lease.worker_id
            for lease in leases
            if lease.expired and now - self._seen[lease.worker_id][1] >= self._patience
        ]


class Sweeper:
    """Rescues workflows of dead workers. Looks at the leases each second, sweeps when it has the ticket."""

    name = "sweeper"

    def __init__(
        self,
        link: Link,
        runs: Runs,
        workers: Workers,
        messages: Messages,
        *,
        ttl: float,
        max_crashes: int,
        announce: Callable[[], None],
    ) -> None:
        self._announce = announce
        self._messages = messages
        self._link = link
        self._runs = runs
        self._workers = workers
        self._every = ttl / 3
        self._suspicion = Suspicion(ttl / 2)
        self._max_crashes = max_crashes
        self._epitaph = _dead_letter(max_crashes)
        self._looking = 0.0
        self.interval = min(1.0, ttl / 6)
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        if await self._link.call(self._declare_dead):
            await self._rescue()
        return 0

    async def _declare_dead(self, connection: Connection) -> bool:
        """Whether there is something to rescue, or it is this worker's turn to look for it."""
        leases = await self._workers.leases(connection)
        suspects = self._suspicion.suspects(leases, time.monotonic())
        if suspects:
            for pod in await self._workers.declare_dead(connection, suspects):
                log.warning("worker of pod %s declared dead: its lease ran out", pod)
        due = await self._workers.take_ticket(connection, "sweep", self._every)
        return due or bool(suspects)

    async def _rescue(self) -> None:
        # Each statement by itself, so that claims come in between.
        while await self._link.call(self._free):
            self._announce()
        await self._link.call(self._wake_forgotten)
        await self._link.call(self._workers.forget_workers)
        await self._link.call(self._bury)

    async def _free(self, connection: Connection) -> int:
        freed, buried = await self._runs.sweep(connection, self._max_crashes, self._epitaph)
        if freed:
            log.info("rescued %d workflows from dead workers", freed)
        self._tell_buried(buried)
        return freed + buried

    async def _bury(self, connection: Connection) -> None:
        self._tell_buried(await self._runs.bury(connection, self._max_crashes, self._epitaph))

    def _tell_buried(self, buried: int) -> None:
        if buried:
            log.error(
                "gave up %d workflows that crashed more than %d times", buried, self._max_crashes
            )

    async def _wake_forgotten(self, connection: Connection) -> None:
        # It reads all that wait: 0.4 s for 100,000. So the more there are the rarer it is, and never a burden.
        pause = max(self._every / 2, self._looking * RARER_THAN_LONG)
        if not await self._workers.take_ticket(connection, "forgotten", pause):
            return
        began = time.monotonic()
        forgotten = await self._messages.wake_forgotten(connection)
        self._looking = time.monotonic() - began
        if forgotten:
            log.info("woke %d workflows whose waker had died", forgotten)
            self._announce()


class Timers:
    """Wakes sleeping workflows and delayed starts when they are due, and ends those whose deadline has passed.

    `stir`: wakes whoever waits for a workflow that has ended.
    """

    name = "timers"

    def __init__(
        self,
        link: Link,
        runs: Runs,
        workers: Workers,
        *,
        schema: str,
        announce: Callable[[], None],
        stir: Callable[[list[str]], None],
    ) -> None:
        self._announce = announce
        self._stir = stir
        self._link = link
        self._runs = runs
        self._workers = workers
        self._workflows = Workflows(schema)
        self.interval = TIMER_SECONDS
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        return await self._link.call(self._end_overdue) + await self._wake_due()

    async def _end_overdue(self, connection: Connection) -> int:
        """Deadlines hold for every open workflow, also for those that no worker has."""
        if not (overdue := await self._workflows.overdue(connection)):
            return 0
        # What somebody holds locked is for the next round: nobody else's timer waits for it.
        done = await self._workflows.cancel_free(connection, overdue, DEADLINE_EXCEEDED.encode())
        if done.wakes:
            self._stir(done.wakes)
        return len(done.cancelled) + len(done.cancelling)

    async def _wake_due(self) -> int:
        """Whoever has the ticket goes on while there are more: after a downtime all who slept through it are due."""
        if not await self._link.call(self._my_turn):
            return 0
        total, ends = 0, time.monotonic() + TURN_SECONDS
        while woken := await self._link.call(self._runs.wake_due):
            total += woken
            self._announce()
            if woken < WAKE_AT_ONCE or time.monotonic() > ends:
                break
        return total

    async def _my_turn(self, connection: Connection) -> bool:
        # Reading first keeps an idle fleet from writing four times a second.
        return await self._runs.any_due(connection) and await self._workers.take_ticket(
            connection, "timers", TIMER_SECONDS / 4
        )


class Strays:
    """Gives back what this worker owns in the database but does not run: a claim whose reply was lost."""

    name = "strays"

    def __init__(self, link: Link, runs: Runs, runner: Runner, *, interval: float) -> None:
        self._link = link
        self._runs = runs
        self._runner = runner
        self._seen: dict[str, int] = {}
        self.interval = interval
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        owned = await self._link.call(self._runs.owned)
        missing = {i: e for i, e in owned.items() if i not in self._runner.executions}
        # Twice in a row, so that one between its claim and its start is not taken for lost.
        strays = [i for i, epoch in missing.items() if self._seen.get(i) == epoch]
        self._seen = missing
        if strays:
            log.warning(
                "giving back %d workflows that this worker owns but does not run", len(strays)
            )
            await self._link.call(lambda c: self._runs.release_strays(c, strays))
        return 0


def _dead_letter(max_crashes: int) -> bytes:
    return Failure(
        "everstep.CrashLoop",
        f"it crashed its worker more than {max_crashes} times in a row without a new checkpoint; "
        f"see the logs of the pods that ran it",
    ).encode()
