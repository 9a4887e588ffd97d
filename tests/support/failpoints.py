"""Faults that a worker process of a test inflicts on itself, because nobody can from outside."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everstep.engine.heartbeat import Heartbeat
from everstep.store.beats import HeartbeatConnection
from everstep.store.runs import Runs
from support.ledger import Ledger


def install(environ: Mapping[str, str]) -> None:
    """STALL_EVERY_BEATS=n: a live zombie now and then. FENCED=file: count refused late writes."""
    if every := environ.get("STALL_EVERY_BEATS"):
        _stall_heartbeats(int(every), 2 * float(environ["EVERSTEP_LEASE_SECONDS"]))
    if path := environ.get("FENCED"):
        _count_fenced(Ledger(Path(path)))


def _stall_heartbeats(every: int, seconds: float) -> None:
    """The heartbeat's thread stalls while the loop goes on, and believes its lease.

    From a beat of each process's own among the first `every`: a run of that many beats surely sees zombies.
    """
    beat = HeartbeatConnection.beat
    beats = itertools.count(random.Random(os.urandom(8)).randrange(every))

    def stalling(self: HeartbeatConnection) -> Any:
        if next(beats) % every == 0:
            time.sleep(seconds)
        return beat(self)

    HeartbeatConnection.beat = stalling  # type: ignore[method-assign]
    Heartbeat.held = lambda _: True  # type: ignore[method-assign]


def _count_fenced(ledger: Ledger) -> None:
    verdicts = Runs.verdicts

    async def counting(self: Runs, connection: Any, owned: Any) -> Any:
        found = await verdicts(self, connection, owned)
        for verdict in found.values():
            if not verdict.owner and not verdict.finished:
                ledger.write(verdict.id, "fenced")
        return found

    Runs.verdicts = counting  # type: ignore[method-assign]
