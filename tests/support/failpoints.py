"""Faults that a worker process of a test inflicts on itself, because nobody can from outside."""

from __future__ import annotations

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
    """STALL_HEARTBEATS=probability: a live zombie now and then. FENCED=file: count refused late writes."""
    if chance := environ.get("STALL_HEARTBEATS"):
        _stall_heartbeats(float(chance), 2 * float(environ["EVERSTEP_LEASE_SECONDS"]))
    if path := environ.get("FENCED"):
        _count_fenced(Ledger(Path(path)))


def _stall_heartbeats(chance: float, seconds: float) -> None:
    """The heartbeat's thread stalls while the loop goes on, and believes its lease."""
    beat = HeartbeatConnection.beat
    dice = random.Random(os.urandom(8))

    def stalling(self: HeartbeatConnection) -> Any:
        if dice.random() < chance:
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
