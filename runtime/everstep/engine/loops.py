"""The shape every background loop shares: do a round, then wait for a wake-up or the interval."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Protocol

from everstep.errors import DatabaseUnreachableError
from everstep.store.connection import Passing

log = logging.getLogger("everstep")


class Loop(Protocol):
    """`run_once` does one round and returns how much it did; `interval` is the pause in seconds when idle."""

    name: str
    interval: float
    wake: asyncio.Event

    async def run_once(self) -> int: ...


class Outage:
    """Says once that the database is away and once that it is back, however many loops notice."""

    def __init__(self) -> None:
        self._troubled: set[str] = set()
        self._since = 0.0

    def met(self, who: str, error: Exception) -> None:
        """A round of a loop failed."""
        first = not self._troubled
        if first:
            self._since = time.monotonic()
        self._troubled.add(who)
        log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s: database trouble, all loops go on trying: %s",
            who,
            error,
        )

    def over(self, who: str) -> None:
        """A round of a loop went well."""
        if who in self._troubled:
            self._troubled.remove(who)
            if not self._troubled:
                log.info("the database answers again, after %.1f s", time.monotonic() - self._since)


async def run(loop: Loop, outage: Outage) -> None:
    """Rounds for ever: at once while there is work, else after the interval (jittered) or a wake-up.

    A fault costs a pause and a log line, never the loop: each round looks at everything anew.
    """
    faults = 0
    while True:
        loop.wake.clear()
        try:
            done = await loop.run_once()
            faults = 0
            outage.over(loop.name)
        except (Passing, DatabaseUnreachableError) as error:
            faults += 1
            done = 0
            outage.met(loop.name, error)
        except Exception:
            # Of one loop: its neighbours, and what this worker runs, have nothing to do with it.
            faults += 1
            done = 0
            log.exception("%s: a round failed, trying again", loop.name)
        if done:
            await asyncio.sleep(0)
            continue
        pause = pause_after(faults) if faults else random.uniform(0.5, 1.0) * loop.interval  # noqa: S311
        try:
            async with asyncio.timeout(pause):
                await loop.wake.wait()
        except TimeoutError:
            pass


def pause_after(faults: int) -> float:
    """Seconds to wait after so many faults in a row: ever longer, up to ten."""
    longest: float = min(0.1 * 2 ** min(faults, 10), 10.0)
    return random.uniform(0.5, 1.0) * longest  # noqa: S311
