"""Whether this worker is alive and ready, answered from any thread: the loop that is asked about may stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from everstep.engine.heartbeat import boottime
from everstep.engine.tenure import Phase

PULSE_SECONDS = 0.5
PATIENCE_SECONDS = 60.0


class Vitals:
    """Feels the event loop's pulse and remembers when the lease was last seen held.

    `patience`: seconds the loop may stand still, or the lease be lost, before a restart is better than waiting.
    """

    def __init__(
        self,
        *,
        phase: Callable[[], Phase],
        lease_held: Callable[[], bool],
        woke_late: Callable[[float], None],
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._phase = phase
        self._lease_held = lease_held
        self._woke_late = woke_late
        self.patience = patience
        self._moved_at = self._held_at = boottime()

    async def run(self) -> None:
        """Feel the pulse for ever."""
        while True:
            due = boottime() + PULSE_SECONDS
            await asyncio.sleep(PULSE_SECONDS)
            self._moved_at = boottime()
            self._woke_late(max(0.0, self._moved_at - due))
            self._lost_for()

    def why_not_live(self) -> str | None:
        """Why this process should be restarted, if it should."""
        still = boottime() - self._moved_at
        if still > self.patience:
            return f"the event loop has not moved for {still:.0f} s"
        if (lost := self._lost_for()) > self.patience:
            return f"the lease has been lost for {lost:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """Why this worker claims nothing, if it does not."""
        phase = self._phase()
        match phase:
            case Phase.LIVE:
                return None if self._lease_held() else "the lease has run out"
            case Phase.STARTING:
                return "starting: not registered in the database yet"
            case Phase.DRAINING:
                return "draining: it claims nothing more"
            case Phase.LOST | Phase.OVER:
                return "the lease is lost; registering anew"
        assert_never(phase)

    def _lost_for(self) -> float:
        now = boottime()
        if self._lease_held():
            self._held_at = now
        return now - self._held_at
