"""Claims: takes ready workflows of the queues that have some, as many as there is room for.

lanes.py decides in which order. An unlimited queue is claimed from lane by lane, by all workers at once; the workers
of a limited one, or of one with partitions, take turns (store/queues.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from everstep.engine.lanes import PRIORITIES, Cursors, Offer, offers
from everstep.engine.runner import Runner
from everstep.engine.suspects import Suspects
from everstep.recorder import Clock
from everstep.store.connection import Link
from everstep.store.models import Claimed, Lane
from everstep.store.queues import LimitedClaims, Share
from everstep.store.runs import Runs

MAX_CLAIM = 100
POLL_SECONDS = (0.05, 2.0)
ROUND_SECONDS = 0.1
CONTENDED_SECONDS = 0.01
"""When another worker was just claiming from a limited queue, or its rate is about to let something through."""

Observe = Callable[[int, float], None]


class Claimer:
    """Keeps the runner busy. `wake` is set by hints; without hints it polls, ever more slowly when idle."""

    name = "claimer"

    def __init__(
        self,
        link: Link,
        runs: Runs,
        limited: LimitedClaims,
        runner: Runner,
        *,
        names: Sequence[str],
        queues: Sequence[str],
        slots: int,
        clock: Clock,
        observe: Observe,
        announce: Callable[[], None],
    ) -> None:
        self._link = link
        self._clock = clock
        self._runs = runs
        self._limited = limited
        self._runner = runner
        self._names = names
        self._queues = queues
        self._slots = slots
        self._observe = observe
        self._announce = announce
        self._cursors = Cursors()
        self._round = 0
        self._full: set[str] = set()
        self._in_vain: dict[str, int] = {}
        self._soon: float | None = None
        self._suspects = Suspects(runner, self._claim_suspect, lambda: self.stopped)
        self._idle = asyncio.Lock()
        self.wake = asyncio.Event()
        self.interval = POLL_SECONDS[0]
        self.stopped = False
        runner.left = self._left

    async def run_once(self) -> int:
        """Claim from every queue that has something. Returns how many were begun, if there is more at once."""
        async with self._idle:
            if self.stopped or not await self._room():
                return 0
            looks = self._cursors.begin(self._queues)
            lanes = await self._link.call(lambda c: self._runs.lanes(c, looks))
            offered = list(offers(lanes, self._in_vain))
            self._full.intersection_update(o.queue for o in offered)
            self._soon = None
            suspects = await self._suspects.run_some(offered)
            claimed, more = await self._serve(offered)
        low, high = POLL_SECONDS
        self.interval = low if claimed or suspects else min(self.interval * 2, high)
        if (rest := self._cursors.rest()) is not None:
            self._look_again(rest)  # a hint that came meanwhile may have been of that lane
        if self._soon is not None:
            self.interval = min(max(self._soon, CONTENDED_SECONDS), high)
        return claimed + suspects if more or suspects else 0

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

    def room(self) -> int:
        """How many more may begin here now, however they were claimed. None while one runs alone."""
        if self.stopped or not self._runner.safe():
            return 0
        return self._slots - len(self._runner.executions)

    def _left(self, queue: str) -> None:
        """A workflow has left this worker. Where no more could run, the next one may begin."""
        if queue not in self._full:
            return
        self.hint()
        if self.stopped or len(self._runner.executions) > self._slots * 3 // 4:
            self._announce()  # this worker would not claim it for a while

    async def _room(self) -> int:
        """Free slots, once a quarter of them is free: fewer, larger claims."""
        while True:
            busy = len(self._runner.executions)
            if busy <= self._slots * 3 // 4 or self.stopped:
                return self._slots - busy
            self._runner.freed.clear()
            await self._runner.freed.wait()

    def _room_of(self, offer: Offer) -> int:
        """How many more of a queue this worker may run, whatever other room there is."""
        if offer.worker_concurrency is None:
            return MAX_CLAIM
        return offer.worker_concurrency - self._runner.running[offer.queue]

    # -- claims ----------------------------------------------------------------------------------

    async def _serve(self, offered: Sequence[Offer]) -> tuple[int, bool]:
        """Let the queues take turns for what room there is. Returns how many were begun, and whether there is more.

        Ends soon in any case: what has come meanwhile may be more urgent, or of a queue that waits for its turn. The
        next round takes over in whose lanes this one was still looking in vain, or slow claims would never cross them.
        """
        deadline = time.monotonic() + ROUND_SECONDS
        turns = deque(offered)
        turns.rotate(-self._round)
        self._round += 1
        total = 0
        while turns and not self.stopped and (room := await self._room()):
            if time.monotonic() > deadline:
                break
            share = -(-room // len(turns))
            offer = turns.popleft()
            limit = min(share, MAX_CLAIM, self._room_of(offer))
            if limit <= 0:
                self._full.add(offer.queue)
                continue
            claim = self._claim_limited if offer.limited else self._claim_lane
            claimed, more = await claim(offer, limit)
            total += claimed
            if more:
                turns.append(offer)
        self._in_vain = {offer.queue: offer.in_vain for offer in turns if offer.in_vain}
        if self._in_vain:
            self._look_again(CONTENDED_SECONDS)
        return total, bool(turns)

    async def _claim_lane(self, offer: Offer, limit: int) -> tuple[int, bool]:
        """From the lane that is due. Returns how many, and whether the queue may have more."""
        turn = offer.next()
        if turn is None:
            return 0, False
        priority, until = turn
        cursor = self._cursors.of(offer.queue, priority)
        claimed = await self._claim(offer.queue, priority, limit, cursor, until)
        newest = max((c.ready_at for c in claimed if c.ready_at is not None), default=None)
        if newest is not None:
            self._cursors.claimed(offer.queue, priority, newest)
        if until is not None and self._clock.until(until) > 0:
            # All of the lane has been looked at: nothing in it is due any later than now.
            until = None
        offer.took(priority, until, newest, full=len(claimed) == limit)
        return len(claimed), bool(offer.heads)

    async def _claim(
        self,
        queue: str,
        priority: int,
        limit: int,
        cursor: datetime | None = None,
        until: datetime | None = None,
        *,
        suspect: bool = False,
    ) -> list[Claimed]:
        began = time.perf_counter()
        claimed = await self._link.call(
            lambda c: self._runs.claim(
                c,
                Lane(queue, priority),
                names=self._names,
                cursor=cursor,
                until=until,
                limit=limit,
                suspect=suspect,
            )
        )
        self._observe(len(claimed), seconds := time.perf_counter() - began)
        if not (claimed or suspect or until):
            self._cursors.in_vain(queue, priority, seconds)
        await self._begin(claimed)
        return claimed

    async def _claim_limited(
        self, offer: Offer, limit: int, *, suspect: bool = False
    ) -> tuple[int, bool]:
        """As many as the queue's limits allow. Returns how many, and whether the queue may have more."""
        cursors = [None if suspect else self._cursors.of(offer.queue, p) for p in PRIORITIES]
        began = time.perf_counter()
        share = await self._link.call(
            lambda c: self._limited.claim(
                c, offer.queue, names=self._names, cursors=cursors, limit=limit, suspect=suspect
            )
        )
        if share is None:
            self._look_again(CONTENDED_SECONDS)
            return 0, False
        self._observe(len(share.claimed), time.perf_counter() - began)
        self._note(offer.queue, share, limit)
        await self._begin(share.claimed)
        return len(share.claimed), len(share.claimed) == limit

    def _note(self, queue: str, share: Share, limit: int) -> None:
        """What a claim of a limited queue says about the next one."""
        for priority, newest in share.newest.items():
            self._cursors.claimed(queue, priority, newest)
        if share.wait is not None:
            self._full.discard(queue)
            self._look_again(share.wait)
        elif len(share.claimed) < limit:
            # Also if it is only empty. Noted before anything of it can end here, so that no end is missed.
            self._full.add(queue)
            if share.more and not share.claimed:
                self._look_again(POLL_SECONDS[0])

    def _look_again(self, seconds: float) -> None:
        self._soon = seconds if self._soon is None else min(self._soon, seconds)

    async def _begin(self, claimed: Sequence[Claimed]) -> None:
        ran_before = [c.id for c in claimed if c.epoch > 1]
        logs = (
            await self._link.retry(lambda c: self._runs.load(c, ran_before)) if ran_before else {}
        )
        for one in claimed:
            if one.epoch == 1:
                self._runner.start(one)
            elif one.id in logs:  # else somebody has finished it, and this worker is late
                self._runner.start(one, logs[one.id])

    async def _claim_suspect(self, offer: Offer, priority: int | None) -> bool:
        # Suspects are few, have an index of their own, and may have waited for long: no cursor.
        if offer.limited or priority is None:
            return (await self._claim_limited(offer, 1, suspect=True))[0] > 0
        return bool(await self._claim(offer.queue, priority, 1, suspect=True))
