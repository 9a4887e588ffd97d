"""What a probed workflow has in the place of its ending, and of its transactions: its worker may die before a commit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from everstep.engine.culprit import NEVER
from everstep.recorder import Transactor

if TYPE_CHECKING:
    from everstep.testing.probe import Probe


class Gone:
    """Waits until a workflow has left its worker, in the place of its ending."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def wait(self) -> datetime:
        await self._probe.gone.wait()
        return NEVER


class ProbedTransactions:
    """The transactor, with crash points inside of the transaction and word of its commit."""

    def __init__(self, probe: Probe, inner: Transactor) -> None:
        self._probe = probe
        self._inner = inner

    async def run(self, place: Any, call: Callable[[Any], Any]) -> Any:
        async def through(tx: Any) -> Any:
            value = await call(tx)
            self._probe.reach(place.name, "after")
            return value

        value = await self._inner.run(place, through)
        self._probe.committed(place)
        return value

    def run_plain(self, place: Any, call: Callable[[Any], Any]) -> Any:
        def through(tx: Any) -> Any:
            value = call(tx)
            self._probe.reach_in_thread(place.name, "after")
            return value

        value = self._inner.run_plain(place, through)
        self._probe.committed(place)
        return value
