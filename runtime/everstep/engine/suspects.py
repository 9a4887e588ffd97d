"""Suspects: workflows that keep crashing their workers run alone, so that they take nobody with them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from everstep.engine.lanes import Offer
from everstep.engine.runner import Runner

ClaimOne = Callable[[Offer, int | None], Awaitable[bool]]

TURN_SECONDS = 2.0
"""How long a worker goes on with suspects, one after the other, before it takes other work again."""

DRAIN_SECONDS = 30.0
"""How long a worker that is never idle takes nothing new, so as to become idle. Steps may last for hours."""

RARER_THAN_DRAINED = 10
"""In vain, it tries again after so many times as long: at most a tenth of its time is lost."""


class Suspects:
    """Claims them one at a time, when nothing else is here to lose. `stopped`: whether to claim nothing more."""

    def __init__(self, runner: Runner, claim: ClaimOne, stopped: Callable[[], bool]) -> None:
        self._runner = runner
        self._claim = claim
        self._stopped = stopped
        self._patience = random.uniform(30, 90)  # noqa: S311
        self._due = time.monotonic() + self._patience

    async def run_some(self, offered: Sequence[Offer]) -> int:
        """Claim one after the other, each once the one before is no danger any more. Returns how many."""
        suspected = [(offer, priority) for offer in offered for priority in offer.suspects]
        now = time.monotonic()
        if not suspected:
            self._due = now + self._patience
            return 0
        if now >= self._due:
            # It was never idle: let it finish what it has, and take nothing new meanwhile.
            await self._until(lambda: not self._runner.executions, now + DRAIN_SECONDS)
            in_vain = DRAIN_SECONDS * RARER_THAN_DRAINED if self._runner.executions else 0.0
            self._due = time.monotonic() + self._patience + in_vain
        ran, ends = 0, time.monotonic() + TURN_SECONDS
        # What is still here after that has progressed: another crash is the first one for it.
        while (ran or not self._runner.executions) and time.monotonic() < ends:
            if not await self._claim_any(suspected):
                break
            await self._until(self._runner.safe)
            ran += 1
        return ran

    async def _claim_any(self, suspected: Sequence[tuple[Offer, int | None]]) -> bool:
        for offer, priority in suspected:
            if not self._stopped() and await self._claim(offer, priority):
                return True
        return False

    async def _until(self, condition: Callable[[], bool], ends: float = math.inf) -> None:
        """Claim nothing until something is true of the runner, or until an instant."""
        while not condition() and not self._stopped() and time.monotonic() < ends:
            self._runner.freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._runner.freed.wait()
