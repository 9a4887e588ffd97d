"""Time limits inside a workflow: recorded timers, so that a replay runs out of time exactly where the first run did.

A timer of asyncio would be forgotten when the workflow parks, and would not fire at a replay, which is quick. Here
the timer's beginning is recorded, it counts among what the workflow waits for, and whether it ran out is recorded
before anybody is told. A replay that knows of a timer that ran out lets the code go on as far as its log reaches;
its first new effect is where it is cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from everstep.branch import NEVER, Branch
from everstep.branches import outside_workflow
from everstep.cancelling import BranchTask
from everstep.context import Wait
from everstep.durable.talking import Position, deadline_of, plain_row
from everstep.durable.waiting import STILL_SECONDS, standstill
from everstep.store.models import CheckpointKind

LOOK_SECONDS = 1.0
"""How often a timer in memory looks at the database's clock."""

_NAME = "timeout"

_PASSED = (Exception, asyncio.CancelledError, type(None))
"""How a block may be left that its workflow goes on from."""

_TURNS = 20
"""Of the event loop, in which a task that was cancelled is sure to have been told."""

_Task = asyncio.Task
"""Of a workflow's task are wanted the methods that are asyncio's: its own hold back what its workflow asks for."""


class Timeout:
    """A time limit for a block of an async workflow. Made by `timeout`.

    `delivered`: its block has been told, by a CancelledError. `ran_out_at` and `passed` are those of a replay that knows
    of a limit that ran out: when it did, and that tasks made in its block need not wait to be cancelled any more; `come`,
    how far its branch had, which is its verdict (`true`: not known).
    """

    def __init__(self, branch: Branch, seconds: float) -> None:
        self.branch = branch
        self._seconds = seconds
        self._at: Position = ("", 0)
        self._verdict: Position = ("", 0)
        self._task: asyncio.Task[object] | None = None
        self._cancels = 0
        self._before = 0
        self._timer: asyncio.Task[None] | None = None
        self._outer: tuple[Timeout, ...] = ()
        self._decided = self._expired = self._cancelled = False
        self.delivered = False
        self.ran_out_at: datetime | None = None
        self.come = sys.maxsize
        self.passed = asyncio.Event()

    def expired(self) -> bool:
        """Whether the time ran out."""
        return self._expired

    async def __aenter__(self) -> Self:
        execution = self.branch.execution
        self._at, self._verdict = self.branch.next_position(), self.branch.next_position()
        self._task = asyncio.current_task()
        self._cancels = self._heard()
        row = execution.recorded(self._verdict, CheckpointKind.VALUE, _NAME)
        if row is None:
            kind = CheckpointKind.TIMER
            when = await deadline_of(execution, self._at, kind, _NAME, self._seconds)
            if not self.branch.overdue:  # else an outer limit ran out before this one
                # Now: a park may come before the timer begins, and takes it along.
                execution.waits[self._at] = Wait(when, None, ())
                self._begin(self._run_out(when))
        else:
            assert row.output is not None
            verdict = msgspec.json.decode(row.output)
            self._decided, self._expired = True, bool(verdict)
            if self._expired:
                self.ran_out_at = row.recorded_at
                self.come = sys.maxsize if verdict is True else verdict
                execution.overdue.append(self)
                self.branch.overdue.append(self)
                self._begin(self._run_out_again())
        self._outer = self.branch.limits
        self.branch.limits = (*self._outer, self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.branch.execution.waits.pop(self._at, None)
        self.passed.set()
        self.branch.limits = self._outer
        if self in self.branch.overdue:
            self.branch.overdue.remove(self)
        if self._cancelled and self._task is not None:
            _Task.uncancel(self._task)
            self._cancelled = False
        if self._expired and not self.delivered:
            self.deliver()
        # What cancels an outer block passes through this one, also where both ran out.
        mine = isinstance(error, asyncio.CancelledError) and not _delivered(self._outer)
        if self._expired and (error is None or mine) and not self._stopped():
            raise (asyncio.CancelledError if self._cancelled_since() else TimeoutError) from error
        if not self._decided and not self._stopped() and isinstance(error, _PASSED):
            self._decide(expired=False)

    def _begin(self, timer: Coroutine[Any, Any, None]) -> None:
        self._timer = outside_workflow(lambda: asyncio.create_task(timer))

    async def _run_out(self, when: datetime) -> None:
        """Wait until it is time, without parking: who waits in the block parks, and takes this instant along."""
        execution = self.branch.execution
        if self._at in execution.log and execution.recorder.clock.until(when) < LOOK_SECONDS:
            # Time that was lost on the way to another worker cuts off nothing that the block has done.
            with execution.engagement():
                await self._end_of_log()
        while (remaining := execution.recorder.clock.until(when)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(remaining, LOOK_SECONDS))
        # Who waits in the block and has found the workflow still must not park now: its park would have no instant.
        # And one limit after the other: a task cancelled for two at once would know of one.
        execution.running_out = execution.running_out or asyncio.Lock()
        with execution.engagement():
            if self.branch.cut != NEVER:
                await self._end_of_log()
            async with execution.running_out:
                await self._let_others_pass()
                execution.waits.pop(self._at, None)
                if not _delivered(self._outer) and not self._stopped():
                    self._decide(expired=True)
                    self._cancel()
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)

    async def _let_others_pass(self) -> None:
        """What cancels the task already, for a block in this one or to leave this one, reaches it first."""
        for _ in range(_TURNS):
            inner = self.branch.limits[len(self._outer) + 1 :]
            if not _delivered(inner) and not self._cancelled_by_others():
                return
            await asyncio.sleep(0)

    def _cancelled_since(self) -> bool:
        """Whether others cancelled the task after this limit had, also in the same turn, of which it was told once.

        Of those before nothing is to be told again: they were let pass, or a task group took no notice of its own.
        """
        if isinstance(self._task, BranchTask):
            self._task.pass_within()
        return self._heard() > self._before

    def _cancelled_by_others(self) -> bool:
        """Whether the task was cancelled since the block began."""
        return self._heard() > self._cancels

    def _heard(self) -> int:
        """Of how many cancellations the task knows."""
        return self._task.heard if isinstance(self._task, BranchTask) else 0

    async def _run_out_again(self) -> None:
        """At a replay: the block's own first new effect is cancelled. If all it does is wait for tasks, so is that."""
        with self.branch.execution.engagement():
            await self._end_of_log()
            if not self.delivered and not self._stopped():
                self.branch.overdue.remove(self)
                self._cancel()
            await asyncio.sleep(STILL_SECONDS)
        self.passed.set()

    async def _end_of_log(self) -> None:
        """Wait until the block has come so far, or was told. Limits that ran out before it may take their time."""
        execution = self.branch.execution
        await standstill(execution, self._goes_after_others)
        while not self.delivered and any(map(self._goes_after, execution.overdue)):
            await standstill(execution, self._goes_after_others)

    def _goes_after_others(self) -> bool:
        if self.delivered:
            return False
        # What is in the log comes before what is not.
        cut = self.branch.cut != NEVER if self.ran_out_at is None else self.branch.cut_next()
        execution = self.branch.execution
        held = any(map(self._goes_after_a_cancellation, execution.held))
        return cut or held or any(map(self._goes_after, execution.overdue))

    def _goes_after(self, other: Timeout) -> bool:
        """Whether another limit is still to be told, and ran out before this one; of the same time, the inner one."""
        if other is self or other.delivered or other.passed.is_set() or other.ran_out_at is None:
            return False
        if self.ran_out_at is None or other.ran_out_at < self.ran_out_at:
            return True
        return other.ran_out_at == self.ran_out_at and other.depth > self.depth

    def _goes_after_a_cancellation(self, task: BranchTask) -> bool:
        """Whether a task is still to be told of a cancellation that came before this limit ran out."""
        return task.held_back and not task.goes_after(self)

    @property
    def depth(self) -> tuple[int, int]:
        """How deep its block is within tasks, and within the blocks of its own one."""
        path = self.branch.path
        return len(path.split(".")) if path else 0, len(self._outer)

    def deliver(self) -> None:
        """Its block is being told."""
        self.delivered = True
        self._before = self._heard()
        self.branch.told += 1

    def _cancel(self) -> None:
        if self._task is not None:
            self.deliver()
            self._cancelled = True
            _Task.cancel(self._task)

    def _decide(self, *, expired: bool) -> None:
        body = msgspec.json.encode(expired and self.branch.come)
        row = plain_row(self._verdict, CheckpointKind.VALUE, _NAME, output=body)
        self.branch.execution.record(row)
        self._decided, self._expired = True, expired

    def _stopped(self) -> bool:
        """Whether the workflow itself is being stopped, or has left."""
        return self.branch.execution.signal is not None or self.branch.execution.over


def _delivered(limits: tuple[Timeout, ...]) -> bool:
    return any(limit.delivered for limit in limits)
