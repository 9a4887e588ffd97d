"""Claims: takes ready workflows of the lanes that have some, as many as there is room for.

A lane is a queue and a priority. Claims of a lane begin at a cursor just below the newest `ready_at` seen
there, so that they stay quick while a long transaction elsewhere keeps dead index entries alive; every ten
seconds one claim looks at the whole lane, in case something became visible behind the cursor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from everstep.engine.runner import Runner
from everstep.store.connection import Link
from everstep.store.models import Claimed
from everstep.store.runs import Runs

MAX_CLAIM = 100
SKEW = timedelta(seconds=5)
FULL_LOOK_SECONDS = 10.0
POLL_SECONDS = (0.05, 2.0)

Lane = tuple[str, int]
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
            claimed = 0
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

    async def _claim(self, lane: Lane, limit: int) -> int:
        alone = not self._runner.executions
        cursor = self._cursor(lane)
        began = time.perf_counter()
        claimed = await self._link.call(
            lambda c: self._runs.claim(
                c, lane, names=self._names, cursor=cursor, limit=limit, alone=alone
            )
        )
        self._observe(len(claimed), time.perf_counter() - began)
        if claimed:
            newest = max(c.ready_at for c in claimed if c.ready_at is not None)
            self._cursors[lane] = max(self._cursors.get(lane, newest), newest - SKEW)
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
