"""Waiting inside a workflow: for a moment in memory, for longer parked (docs/internals/waiting.md).

A workflow parks when it can do nothing but wait: no step of it is running and no branch has moved for a
moment. Parking is always allowed (what is not recorded runs again), so this only decides when it is cheap.
A wake-up cannot be lost: a park carries the count of signals that the last look knew of, and is refused if
anything has happened since.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from everstep.branch import Branch, asleep, current_branch
from everstep.context import Execution, Wait
from everstep.durable.unreadable import say_unreadable, wait_for_a_reader
from everstep.errors import CodecError
from everstep.store.models import Seen

STAY_SECONDS = 1.0
"""Waits shorter than this stay in memory: parking and claiming again cost two commits."""

STILL_SECONDS = 0.05
"""How long a workflow with several branches must stand still before it parks."""

STILL_TURNS = 20
"""And for how many turns of the event loop. Where it is slow that time is a turn or two, and a branch that awaits
tasks which end one after the other needs more until it does the next thing.
"""

_LOOKS, _MOST_LOOKS = 10, 200
"""A replay has come as far as its log goes when nothing has moved at so many looks; or at the latest, after so many."""

LOOK_SECONDS = (0.01, 0.5)
"""How often a workflow that cannot park looks again: the shortest and the longest pause."""

LOOK_COST_SECONDS = 0.0002
"""A few times what one look costs: ten thousand branches that wait take turns, and leave room for others."""


Look = Callable[[], Awaitable[tuple[int, Seen | None]]]
"""Looks once: how many signals that look knew of, and what it saw, if anything."""


async def wait_until(
    execution: Execution, position: tuple[str, int], when: datetime, key: str
) -> None:
    """Return once the database's time has reached `when`, or raise Parked."""
    branch = current_branch.get()
    with asleep(branch):
        try:
            if execution.log and branch is not None:
                await _be_cut_short(execution, branch, when)
            execution.waits[position] = Wait(when, None, (key,))
            while (remaining := execution.recorder.clock.until(when)) > 0:
                execution.check()
                if remaining <= STAY_SECONDS:
                    await asyncio.sleep(remaining)
                elif await _still(execution):
                    await _park(execution)
                execution.check()
        finally:
            execution.moves += 1
            execution.waits.pop(position, None)


async def _be_cut_short(execution: Execution, branch: Branch, when: datetime) -> None:
    """A sleep that a time limit or a cancellation ended early ends so at a replay, too, however late that is."""
    if branch.task is not None:
        await branch.task.oversleep()
    lasts = execution.recorder.clock.until(when) > 0
    if lasts or any(limit.ran_out_at < when for limit in branch.held_by):
        await execution.end_of_log()
    if any(limit.ran_out_at < when for limit in branch.overdue):
        execution.check()


async def wait_for(
    execution: Execution,
    position: tuple[str, int],
    look: Look,
    until: datetime | None,
    keys: Sequence[str],
) -> Seen | None:
    """What `look` sees, once it sees something; None at `until`. Or raise Parked.

    `keys` name what it waits for; any of them may come true.
    """
    pause, longest = LOOK_SECONDS
    if execution.log:
        await execution.end_of_log()
    lookout = _Lookout(execution, look, Wait(until, None, tuple(keys)))
    try:
        # Until the first look has come back, no park may go past it.
        with execution.engagement():
            seen = await lookout.look()
        while True:
            execution.waits[position] = lookout.wait
            execution.check()
            if seen is not None:
                return seen
            # What has come in time, and cannot be read here, is not late.
            due = None if lookout.unreadable else until
            remaining = None if due is None else execution.recorder.clock.until(due)
            if remaining is not None and remaining <= 0:
                return None
            if pause >= STAY_SECONDS / 8 and await _still(execution):
                await _park(execution)
                execution.check()
                # Refused: something has happened, to one of what may be thousands of branches.
                await asyncio.sleep(LOOK_COST_SECONDS * len(execution.waits))
            else:
                turn = max(pause, LOOK_COST_SECONDS * len(execution.waits))
                await asyncio.sleep(turn if remaining is None else min(turn, remaining))
                pause = min(pause * 2, longest)
            seen = await lookout.look()
    finally:
        execution.moves += 1
        execution.waits.pop(position, None)


class _Lookout:
    """Looks, and knows what to wait for after that: where something is there that cannot be read, for a reader."""

    def __init__(self, execution: Execution, look: Look, wait: Wait) -> None:
        self._execution = execution
        self._look = look
        self._wanted = wait
        self.wait = wait
        self.unreadable = False

    async def look(self) -> Seen | None:
        try:
            signals, seen = await self._look()
        except CodecError as error:
            if not self.unreadable:
                say_unreadable(self._execution, error)
            self.unreadable = True
            self.wait = wait_for_a_reader(self._execution, error)
            return None
        self.unreadable = False
        self.wait = replace(self._wanted, signals=signals)
        return seen


async def standstill(execution: Execution, others: Callable[[], bool]) -> None:
    """Return once a replay has come as far as it gets by itself, and nobody else is to be told of something first."""
    looks, still, moves = 0, 0, -1
    while still < _LOOKS and looks < _MOST_LOOKS:
        await asyncio.sleep(STILL_SECONDS / _LOOKS)
        looks += 1
        still = 0 if moves != execution.moves or others() else still + 1
        moves = execution.moves


async def _park(execution: Execution) -> None:
    """Park, or join the park that another branch has just asked for: it speaks for all that wait."""
    if execution.parking is None or execution.parking.at is not None:
        waits = execution.waits.values()
        keys = sorted({key for wait in waits for key in wait.keys})
        key = keys[0] if len(keys) == 1 else json.dumps(keys, ensure_ascii=False)
        wake_at = min((wait.until for wait in waits if wait.until is not None), default=None)
        # The oldest look counts: what a later one of another branch knew of, that one may not have seen.
        signals = min((wait.signals for wait in waits if wait.signals is not None), default=None)
        execution.parking = execution.recorder.park(execution, wake_at, key, signals)
    await execution.parking.wait()


async def _still(execution: Execution) -> bool:
    """Whether the workflow does nothing but wait, as far as can be seen."""
    if execution.plain and len(execution.waits) < execution.threads:
        await asyncio.sleep(STILL_SECONDS)
    if execution.plain:
        return len(execution.waits) >= execution.threads
    if not execution.branches and not _due(execution):
        return True
    seen = execution.moves
    await asyncio.sleep(STILL_SECONDS)
    for _ in range(STILL_TURNS):
        await asyncio.sleep(0)
        if execution.steps_running or execution.engaged or execution.moves != seen:
            return False
    return True


def _due(execution: Execution) -> bool:
    """Whether the time of something it waits for has come, such as a limit's that is about to run out."""
    until = execution.recorder.clock.until
    return any(
        wait.until is not None and until(wait.until) <= 0 for wait in execution.waits.values()
    )
