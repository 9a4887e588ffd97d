"""Time limits inside a workflow: recorded timers, so that a replay runs out of time exactly where the first run did.

A timer of asyncio would be forgotten when the workflow parks, and would not fire at a replay, which is quick. Here
the timer's beginning is recorded, it counts among what the workflow waits for, and whether it ran out is recorded
before anybody is told. A replay that knows of a timer that ran out lets the code go on as far as its log reaches;
its first new effect is where it is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from everstep.branches import outside_workflow
from everstep.context import Branch, Wait, awaiting_branch, branch_here
from everstep.durable.talking import Position, deadline_of, plain_row
from everstep.durations import seconds_of
from everstep.errors import UsageError
from everstep.store.models import CheckpointKind

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How often a timer in memory looks at the database's clock."""

_NAME = "timeout"


def timeout(delay: timedelta | float) -> Timeout:
    """A time limit for a block: `async with everstep.timeout(60): …`, which raises TimeoutError past it.

    Counted from when the database first recorded it. The block may wait parked, for days. What runs in it then is
    cancelled as by asyncio.timeout. In a step, use asyncio.timeout.
    """
    return Timeout(_branch("everstep.timeout()"), seconds_of(delay, "a timeout"))


async def wait_for(awaitable: Awaitable[T], timeout: timedelta | float | None) -> T:  # noqa: ASYNC109
    """As asyncio.wait_for, with a recorded timer: `await everstep.wait_for(child(order), timedelta(days=2))`."""
    try:
        if timeout is None:
            return await awaitable
        async with Timeout(_branch("everstep.wait_for()"), seconds_of(timeout, "a timeout")):
            return await awaitable
    finally:
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # that it was never awaited, if so, is no news


def _branch(what: str) -> Branch:
    if branch_here(what).execution.plain:
        raise UsageError(
            f"{what} cannot stop the thread of a plain workflow. Give recv() and get_event() a timeout=, a child a "
            f"deadline, or write the workflow as `async def`"
        )
    return awaiting_branch(what)


class Timeout:
    """A time limit for a block of an async workflow. Made by `timeout`."""

    def __init__(self, branch: Branch, seconds: float) -> None:
        self._branch = branch
        self._seconds = seconds
        self._verdict: Position = ("", 0)
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._decided = self._expired = False

    def expired(self) -> bool:
        """Whether the time ran out."""
        return self._expired

    async def __aenter__(self) -> Self:
        execution = self._branch.execution
        timer, self._verdict = self._branch.next_position(), self._branch.next_position()
        self._task = asyncio.current_task()
        row = execution.recorded(self._verdict, CheckpointKind.VALUE, _NAME)
        if row is None:
            when = await deadline_of(execution, timer, CheckpointKind.TIMER, _NAME, self._seconds)
            run = self._run_out(timer, when)
            self._timer = outside_workflow(lambda: asyncio.create_task(run))
            return self
        assert row.output is not None
        self._decided, self._expired = True, bool(msgspec.json.decode(row.output))
        if self._expired:
            execution.overdue = True
            self._branch.overdue.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self in self._branch.overdue:
            self._branch.overdue.remove(self)
        left = error is None or isinstance(error, asyncio.CancelledError)
        if self._expired and left and not self._stopped():
            if self._timer is not None and self._task is not None:
                self._task.uncancel()
            raise TimeoutError from error
        if not self._decided and isinstance(error, Exception | None):
            self._decide(expired=False)

    async def _run_out(self, position: Position, when: datetime) -> None:
        """Wait until it is time, without parking: who waits in the block parks, and takes this instant along."""
        execution = self._branch.execution
        execution.waits[position] = Wait(when, None, ())
        try:
            while (remaining := execution.recorder.clock.until(when)) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(remaining, LOOK_SECONDS))
        finally:
            execution.waits.pop(position, None)
        if not self._stopped() and self._task is not None:
            self._decide(expired=True)
            self._task.cancel()

    def _decide(self, *, expired: bool) -> None:
        body = msgspec.json.encode(expired)
        row = plain_row(self._verdict, CheckpointKind.VALUE, _NAME, output=body)
        self._branch.execution.record(row)
        self._decided, self._expired = True, expired

    def _stopped(self) -> bool:
        """Whether the workflow itself is being stopped, or has left."""
        return self._branch.execution.signal is not None or self._branch.execution.over
