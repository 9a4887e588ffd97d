"""Waiting inside a workflow: for a moment in memory, for longer parked.

A workflow parks when it can do nothing but wait: no step of it is running and no branch has moved for a
moment. Parking is always allowed (what is not recorded runs again), so this only decides when it is cheap.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from everstep.context import Execution

STAY_SECONDS = 1.0
"""Waits shorter than this stay in memory: parking and claiming again cost two commits."""

STILL_SECONDS = 0.05
"""How long a workflow with several branches must stand still before it parks."""


async def wait_until(
    execution: Execution, position: tuple[str, int], when: datetime, key: str
) -> None:
    """Return once the database's time has reached `when`, or raise Parked."""
    execution.waits[position] = when
    try:
        while (remaining := execution.recorder.clock.until(when)) > 0:
            if remaining <= STAY_SECONDS:
                await asyncio.sleep(remaining)
            elif await _still(execution):
                await execution.recorder.park(execution, min(execution.waits.values()), key).wait()
            execution.check()
    finally:
        execution.waits.pop(position, None)


async def _still(execution: Execution) -> bool:
    """Whether the workflow does nothing but wait, as far as can be seen."""
    if not execution.branches:
        return True
    seen = execution.moves
    await asyncio.sleep(STILL_SECONDS)
    busy = execution.steps_running or execution.retries_waiting
    return not busy and execution.moves == seen
