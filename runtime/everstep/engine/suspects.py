"""Suspects: workflows that keep crashing their workers run alone, so that they take nobody with them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from everstep.engine.lanes import Offer
from everstep.engine.runner import Runner

ClaimOne = Callable[[Offer, int | None], Awaitable[bool]]


class Suspects:
    """Claims them one at a time, when nothing else is here to lose. `stopped`: whether to claim nothing more."""

    def __init__(self, runner: Runner, claim: ClaimOne, stopped: Callable[[], bool]) -> None:
        self._runner = runner
        self._claim = claim
        self._stopped = stopped
        self._patience = random.uniform(30, 90)  # noqa: S311
        self._due = time.monotonic() + self._patience

    async def run_one(self, offered: Sequence[Offer]) -> int:
        """Claim one if there is one, and return once it is no danger any more. Returns how many were claimed."""
        suspected = [(offer, priority) for offer in offered for priority in offer.suspects]
        now = time.monotonic()
        if not suspected:
            self._due = now + self._patience
        elif now >= self._due:
            # It was never idle: let it finish what it has, and take nothing new meanwhile.
            await self._until(lambda: not self._runner.executions)
            self._due = now + self._patience
        for offer, priority in suspected:
            if self._runner.executions or self._stopped():
                break
            if await self._claim(offer, priority):
                await self._until(self._runner.safe)
                return 1
        return 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Claim nothing until something is true of the runner."""
        while not condition() and not self._stopped():
            self._runner.freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._runner.freed.wait()
