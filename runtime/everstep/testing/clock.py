"""The clock of a test: moves the database's time, timer by timer, once everything waits.

A test that only put the clock forward would race the workflow it has just started, which may not sleep yet; and what
sleeps thirty times a day would wake once. So time stops at each timer on its way, and goes on when all is quiet.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any, Protocol

from everstep.engine.tenure import Phase
from everstep.engine.worker import Worker
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.store.connection import Connection, Link
from everstep.store.messages import Messages
from everstep.store.testing import Busy, FakeClock, Standing

PATIENCE_SECONDS = 20.0
"""How long the same may go on, by the real clock, before it is taken for something that does not end."""

NAP_SECONDS = (0.001, 0.02)

_ONLY_OTHERS = "only others, such as schedules, have a timer"


class StuckError(AssertionError):
    """Moving the clock does not help: something does not end, or waits for something that no clock brings."""


class Started(Protocol):
    """A handle of any colour."""

    id: str


class Clock:
    """The time of the test's database. Runs as clocks do, and can be put forward."""

    def __init__(self, link: Link, worker: Worker) -> None:
        self._link = link
        self._worker = worker
        self._messages = Messages(worker.settings.schema)
        self._sql = FakeClock(worker.settings.schema)
        self._names = sorted(worker.app.workflows)

    async def now(self) -> datetime:
        """The database's time."""
        return await self._link.retry(self._sql.now)

    async def advance(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        """Let so much time pass: a timedelta, or its parts, `advance(days=30)`. Returns the time it is then.

        First everything that can go on does, until it waits. Then whatever is due on the way happens in its order,
        each at its own time: sleeps and timeouts end, deadlines pass, schedules tick. Raises StuckError if
        something does not come to wait within twenty seconds: a step that waits for this very test, for instance.
        """
        span = duration_of(duration, parts)
        await self.quiet()
        return await self.advance_to(await self.now() + span)

    async def advance_to(self, instant: datetime) -> datetime:
        """The same, up to an instant."""
        if instant.tzinfo is None:
            raise UsageError(f"{instant} has no time zone: write datetime(…, tzinfo=UTC)")
        await self.quiet()
        while (timer := await self._next_timer()) is not None and timer <= instant:
            await self._jump_to(timer)
            await self.quiet()
        at = await self._jump_to(instant)
        await self.quiet()
        return at

    async def jump(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        """Put the clock forward at once, whatever goes on, and wait for nothing: for a step that is running."""
        span = duration_of(duration, parts)
        return await self._jump_to(await self.now() + span)

    async def run_until(self, handle: Started) -> None:
        """Put the clock forward from timer to timer until a workflow has finished, however it ends.

        Raises StuckError if it waits for something that no clock brings, such as a message: at once where nothing
        else has a timer, else after twenty seconds without a change.
        """
        patience, vain, timeless = _Patience(), _Vain(), False
        while not await self._finished(handle.id):
            if busy := await self._busy():
                timeless = False
                await patience.nap(busy)
            elif (timer := await self._next_timer()) is not None:
                if vain.of(await self._standing(handle.id)):
                    raise StuckError(await self._why_stuck(handle.id, _ONLY_OTHERS))
                await self._jump_to(timer)
                patience, timeless = _Patience(), False
            elif timeless and not await self._finished(handle.id):
                raise StuckError(await self._why_stuck(handle.id, "there is no timer"))
            else:
                # A timer may have ended by itself between the two questions: it shows at the next look.
                timeless = True

    async def quiet(self) -> None:
        """Wait until everything waits: nothing is running, queued or due. Raises StuckError after twenty seconds of the same."""
        patience = _Patience()
        while busy := await self._busy():
            await patience.nap(busy)

    async def _busy(self) -> list[Busy]:
        tenure = self._worker.tenure
        busy = await self._link.retry(lambda c: self._sql.busy(c, self._names, self._worker.queues))
        if any(one.why != "is running" for one in busy):
            await self._look_now()
        if busy:
            return busy
        if self._worker.tenure is not tenure or self._worker.phase is not Phase.LIVE:
            # It has just died: what it held is nobody's until it is back.
            return [Busy("the worker", "is not up")]
        return await self._link.retry(self._owed)

    async def _owed(self, connection: Connection) -> list[Busy]:
        """What is between two places: it has been woken, or is about to be, and showed in no question so far."""
        before = await self._sql.pulse(connection)
        if await self._messages.wake_forgotten(connection):
            self._tell(await self._sql.now(connection))
            return [Busy("a workflow", "has just been woken")]
        busy = await self._sql.busy(connection, self._names, self._worker.queues)
        if not busy and await self._sql.pulse(connection) != before:
            return [Busy("a workflow", "has just moved")]
        return busy

    async def _next_timer(self) -> datetime | None:
        return await self._link.retry(self._sql.next_timer)

    async def _jump_to(self, instant: datetime) -> datetime:
        seconds = (instant - await self.now()).total_seconds()

        async def advance(connection: Connection) -> datetime:
            return await self._sql.advance(connection, max(seconds, 0.0))

        at = await self._link.call(advance)
        self._tell(at)
        return at

    async def _look_now(self) -> None:
        self._tell(await self.now())

    def _tell(self, at: datetime) -> None:
        tenure = self._worker.tenure
        if tenure is not None and not tenure.lost.is_set():
            tenure.look_now(at)

    async def _finished(self, workflow_id: str) -> bool:
        info = await self._worker.client.get(workflow_id)
        if info is None:
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        return info.finished_at is not None

    async def _standing(self, workflow_id: str) -> Standing | None:
        return await self._link.retry(lambda c: self._sql.standing(c, workflow_id))

    async def _why_stuck(self, workflow_id: str, timers: str) -> str:
        standing = await self._standing(workflow_id)
        key = standing and standing.wait_key
        waits = f"waits for {key}" if key else "is not run by this worker"
        return (
            f"workflow {workflow_id} {waits}, and {timers} that the clock could go on to. "
            f"Send what it waits for first, or look at its queue and its name."
        )


class _Patience:
    """Ever longer naps, and an end of them."""

    def __init__(self) -> None:
        self._until = time.monotonic() + PATIENCE_SECONDS
        self._seen: list[Busy] = []
        self._nap, self._longest = NAP_SECONDS

    async def nap(self, busy: list[Busy]) -> None:
        if busy != self._seen:
            self._seen, self._until = busy, time.monotonic() + PATIENCE_SECONDS
        if time.monotonic() > self._until:
            what = ", ".join(f"{one.what} {one.why}" for one in busy)
            raise StuckError(
                f"after {PATIENCE_SECONDS:g} s the clock still waits for this to end: {what}. If it waits for your "
                f"test, move the clock with jump(), which waits for nothing."
            )
        await asyncio.sleep(self._nap)
        self._nap = min(self._nap * 2, self._longest)


class _Vain:
    """Whether time goes on in vain: a workflow without a timer of its own stands where it stood long ago."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._seen: Standing | None = None

    def of(self, standing: Standing | None) -> bool:
        if standing is None or standing.timed or standing != self._seen:
            self._seen, self._since = standing, time.monotonic()
        return time.monotonic() - self._since > PATIENCE_SECONDS


_PARTS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def duration_of(duration: timedelta | None, parts: dict[str, Any]) -> timedelta:
    """A timedelta, given or made from its parts. Raises UsageError unless it is one, and positive."""
    given = isinstance(duration, timedelta) if duration is not None else bool(parts)
    if not given or (duration is not None and parts) or parts.keys() - set(_PARTS):
        raise UsageError(
            f"the clock is moved by a timedelta, or by its parts: advance(days=30). Parts are {', '.join(_PARTS)}."
        )
    span = timedelta(**parts) if duration is None else duration
    if span < timedelta(0):
        raise UsageError(f"the clock goes forward only, not by {span}")
    return span
