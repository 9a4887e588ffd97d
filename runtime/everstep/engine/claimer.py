"""Claims: takes ready workflows of the lanes that have some, as many as there is room for.

A lane is a queue and a priority. Claims of a lane begin at a cursor just below the newest `ready_at` seen
there, so that they stay quick while a long transaction elsewhere keeps dead index entries alive; every ten
seconds one claim looks at the whole lane, in case something became visible behind the cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from everstep.engine.runner import Runner
from everstep.store.connection import Link
from everstep.store.models import Claimed, Lane
from everstep.store.runs import Runs

MAX_CLAIM = 100
SKEW = timedelta(seconds=5)
FULL_LOOK_SECONDS = 10.0
POLL_SECONDS = (0.05, 2.0)

Observe = Callable[[int, float], None]


class Claimer:
    """Keeps the runner busy. `wake` is set by hints; without hints it polls, ever more slowly when idle."""

    name = "claimer"

    def __init__(
        self,
        link: Link,
        runs: Runs,
        runner: Runner,
        *,
        names: Sequence[str],
        queues: Sequence[str],
        slots: int,
        observe: Observe,
    ) -> None:
        self._link = link
        self._runs = runs
        self._runner = runner
        self._names = names
        self._queues = queues
        self._slots = slots
        self._observe = observe
        self._cursors: dict[Lane, datetime] = {}
        self._looked: dict[Lane, float] = {}
        self._patience = random.uniform(30, 90)  # noqa: S311
        self._suspects_due = time.monotonic() + self._patience
        self._idle = asyncio.Lock()
        self.wake = asyncio.Event()
        self.interval = POLL_SECONDS[0]
        self.stopped = False

    async def run_once(self) -> int:
        """Claim from every lane that has something. Returns how many workflows were begun."""
        async with self._idle:
            if self.stopped or not await self._room():
                return 0
            lanes = await self._link.call(lambda c: self._runs.lanes(c, self._queues))
            claimed = await self._claim_suspect(lanes)
            for lane in lanes:
                claimed += await self._drain_lane(lane)
        low, high = POLL_SECONDS
        self.interval = low if claimed else min(self.interval * 2, high)
        return claimed

    def hint(self) -> None:
        """There may be something to claim."""
        self.interval = POLL_SECONDS[0]
        self.wake.set()

    async def stop(self) -> None:
        """Claim nothing more; returns once no claim is under way."""
        self.stopped = True
        self._runner.freed.set()  # whoever waits for room looks again
        async with self._idle:
            pass

    async def _claim_suspect(self, lanes: Sequence[Lane]) -> int:
        """One workflow that keeps crashing its workers, if there is one and nothing else is here to lose."""
        lanes = [lane for lane in lanes if lane.suspects]
        now = time.monotonic()
        if not lanes:
            self._suspects_due = now + self._patience
        elif now >= self._suspects_due:
            # It was never idle: let it finish what it has, and take nothing new meanwhile.
            await self._until(lambda: not self._runner.executions)
            self._suspects_due = now + self._patience
        for lane in lanes:
            if self._runner.executions or self.stopped:
                break
            if await self._claim(lane, 1, suspect=True):
                await self._until(self._runner.safe)
                return 1
        return 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Claim nothing until something is true of the runner."""
        while not condition() and not self.stopped:
            self._runner.freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._runner.freed.wait()

    async def _drain_lane(self, lane: Lane) -> int:
        total = 0
        while not self.stopped and (room := await self._room()):
            limit = min(room, MAX_CLAIM)
            claimed = await self._claim(lane, limit)
            total += claimed
            if claimed < limit:
                break
        return total

    async def _room(self) -> int:
        """Free slots, once a quarter of them is free: fewer, larger claims."""
        while True:
            busy = len(self._runner.executions)
            if busy <= self._slots * 3 // 4 or self.stopped:
                return self._slots - busy
            self._runner.freed.clear()
            await self._runner.freed.wait()

    async def _claim(self, lane: Lane, limit: int, *, suspect: bool = False) -> int:
        # Suspects are few, have an index of their own, and may have waited for long.
        cursor = "-infinity" if suspect else self._cursor(lane)
        began = time.perf_counter()
        claimed = await self._link.call(
            lambda c: self._runs.claim(
                c, lane, names=self._names, cursor=cursor, limit=limit, suspect=suspect
            )
        )
        self._observe(len(claimed), time.perf_counter() - began)
        if claimed and not suspect:
            newest = max(c.ready_at for c in claimed if c.ready_at is not None)
            self._cursors[lane] = max(self._cursors.get(lane, newest), newest - SKEW)
        if claimed:
            await self._begin(claimed)
        return len(claimed)

    def _cursor(self, lane: Lane) -> datetime | str:
        now = time.monotonic()
        if now - self._looked.get(lane, -FULL_LOOK_SECONDS) >= FULL_LOOK_SECONDS:
            self._looked[lane] = now
            return "-infinity"
        return self._cursors.get(lane, "-infinity")

    async def _begin(self, claimed: list[Claimed]) -> None:
        ran_before = [c.id for c in claimed if c.epoch > 1]
        logs = (
            await self._link.retry(lambda c: self._runs.load(c, ran_before)) if ran_before else {}
        )
        for one in claimed:
            self._runner.start(one, logs.get(one.id, ()))
