"""Brings a cancellation to a workflow that runs, within a second, in the middle of a step.

A commit or a heartbeat brings it as well, but a long step commits nothing, and heartbeats are far between. Asked
about is only what has been here since the last round, so a worker whose workflows are quick asks nothing.
"""

from __future__ import annotations

import asyncio

from everstep.engine.runner import Runner
from everstep.errors import Cancelled
from everstep.store.connection import Link
from everstep.store.runs import Runs


class Cancellations:
    """Asks which of the workflows that stay were cancelled."""

    name = "cancellations"

    def __init__(self, link: Link, runs: Runs, runner: Runner) -> None:
        self._link = link
        self._runs = runs
        self._runner = runner
        self._seen: dict[str, int] = {}
        self.interval = 0.5
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        here = {e.id: e.epoch for e in self._runner.executions.values() if e.signal is None}
        stayed = [id_ for id_, epoch in here.items() if self._seen.get(id_) == epoch]
        self._seen = here
        if stayed:
            for workflow_id in await self._link.call(lambda c: self._runs.cancelled(c, stayed)):
                self._runner.interrupt(workflow_id, Cancelled())
        return 0
