"""Ticks: starts the workflows of schedules when they are due, and writes down which schedules the code declares.

Nobody is special: every worker looks, computes what is due from the row alone, and moves the schedule on under
the condition that it is still as it was looked at. One of them succeeds; the others find nothing left to do.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from everstep.cron import Cron, make_timing
from everstep.encoding import PLAIN, Encoding
from everstep.errors import Failure
from everstep.schedules import CatchUp, Overlap, Schedule, due, tick_id, tick_input
from everstep.store.connection import Connection, Link, Passing
from everstep.store.messages import Messages
from everstep.store.schedules import Declaration, Look, ScheduleRow, Schedules, Tick
from everstep.store.workflows import Cancellation, Workflows

log = logging.getLogger("everstep")

LOOK_SECONDS = 1.0
"""How often a worker looks at the schedules, at least; how long an edit may go unnoticed."""

SHORTEST_SECONDS = 0.1
"""The shortest pause before a tick; a tick is late by at most about this much."""

_AT_ONCE = 50
"""Schedules that one round moves on, picked at random so that workers do not queue behind each other."""


class Scheduler:
    """Fires what is due, and sleeps until the next tick or LOOK_SECONDS."""

    name = "scheduler"

    def __init__(
        self,
        link: Link,
        schedules: Sequence[Schedule],
        *,
        app: str,
        schema: str,
        version: str,
        encoding: Encoding = PLAIN,
        announce: Callable[[], None],
    ) -> None:
        self._link = link
        self._declared = schedules
        self._app = app
        self._version = version
        self._announce = announce
        self._schedules = Schedules(schema, encoding)
        self._workflows = Workflows(schema)
        self._messages = Messages(schema)
        self._routing = -1
        self._complained: set[tuple[str, int]] = set()
        self.interval = LOOK_SECONDS
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        moved = 0
        for row in await self._link.call(self._look):
            try:
                moved += await self._move_on(row)
            except Passing:
                raise
            except Exception as error:  # noqa: BLE001
                self._complain(row, error)
        if moved:
            self._announce()
        return moved

    async def _move_on(self, row: ScheduleRow) -> int:
        # Planned beside the event loop and without the connection: many missed ticks take a while.
        tick = await asyncio.to_thread(plan, row)
        return 0 if tick is None else await self._link.call(lambda c: self._move(c, row, tick))

    async def declare(self, connection: Connection, look: Look | None = None) -> None:
        """Put the code's schedules in force, if its version is the current one: once per change of the routing."""
        look = look or await self._schedules.look(connection)
        if look.current != self._version or look.revision == self._routing:
            return
        declarations = [declaration(schedule, look) for schedule in self._declared]
        changed, removed = await self._schedules.declare(
            connection,
            declarations,
            app=self._app,
            version=self._version,
            routing=look.revision,
        )
        self._routing = look.revision
        for name in changed:
            log.info("schedule %s is as the code declares it", name)
        for name in removed:
            log.info("schedule %s is no longer in the code: it starts nothing more", name)

    async def _look(self, connection: Connection) -> list[ScheduleRow]:
        """Some of what is due. Also sets the pause, and declares what is not declared yet."""
        look = await self._schedules.look(connection)
        await self.declare(connection, look)
        until = LOOK_SECONDS if look.next_in is None else look.next_in
        self.interval = min(max(until, SHORTEST_SECONDS), LOOK_SECONDS)
        if not look.due:
            return []
        some = random.sample(look.due, min(len(look.due), _AT_ONCE))
        return await self._schedules.rows(connection, some)

    async def _move(self, connection: Connection, row: ScheduleRow, tick: Tick) -> int:
        """Fire one schedule's due ticks, unless somebody else has."""
        if row.overlap == Overlap.CANCEL_PREVIOUS and row.last_at is not None and tick.ids:
            started = await self._instead(connection, row, tick)
        else:
            started = await self._schedules.tick(connection, tick)
        if started is None:
            return 0
        log.debug("schedule %s: started %s", row.name, ", ".join(started) or "nothing")
        return 1

    def _complain(self, row: ScheduleRow, error: Exception) -> None:
        """A schedule that cannot be computed or started stands still, stops no other, and says so once."""
        if (row.name, row.revision) not in self._complained:
            self._complained.add((row.name, row.revision))
            log.error("schedule %s stands still: %s", row.name, error or repr(error))

    async def _instead(
        self, connection: Connection, row: ScheduleRow, tick: Tick
    ) -> list[str] | None:
        """Cancel the previous tick's workflow and start this one's: both or neither."""
        assert row.last_at is not None
        previous = tick_id(row.name, row.last_at)
        async with connection.transaction():
            if not await self._schedules.lock(connection, tick):
                return None
            ids = [previous, *await self._workflows.descendants(connection, previous)]
            done = await self._workflows.cancel(connection, ids, _superseded(row.name))
            started = await self._schedules.tick(connection, tick)
        await self._wake(connection, done)
        return started

    async def _wake(self, connection: Connection, done: Cancellation) -> None:
        if done.wakes:
            await self._messages.wake(connection, sorted(done.wakes))


def declaration(schedule: Schedule, look: Look) -> Declaration:
    """A schedule of the code as a row would hold it."""
    timing = schedule.timing
    return Declaration(
        name=schedule.name,
        workflow=schedule.workflow.name,
        parameter=schedule.parameter,
        queue=schedule.queue,
        cron=timing.expression if isinstance(timing, Cron) else None,
        every=None if isinstance(timing, Cron) else timing.interval.total_seconds(),
        timezone=timing.timezone if isinstance(timing, Cron) else "UTC",
        catch_up=str(schedule.catch_up),
        overlap=str(schedule.overlap),
        next_at=timing.after(look.now),
    )


def plan(row: ScheduleRow) -> Tick | None:
    """What to do about a row that was due when it was looked at; None: it no longer is. Raises UsageError."""
    if row.next_at is None or row.next_at > row.now or row.paused or row.removed_at is not None:
        return None
    timing = make_timing(row.cron, row.interval, row.timezone)
    found = due(timing, row.next_at, row.now, CatchUp.parse(row.catch_up))
    start, previous, skipped, last = list(found.start), None, None, None
    match Overlap(row.overlap):
        case Overlap.SKIP if start:
            # The first is started if the previous workflow is over; the others would find the first one open.
            previous = None if row.last_at is None else tick_id(row.name, row.last_at)
            skipped, last = (start[-1] if len(start) > 1 else None), start[-1]
            start = start[:1]
        case Overlap.CANCEL_PREVIOUS if len(start) > 1:
            # Each would be cancelled at once by the one after it.
            skipped, start = start[-2], start[-1:]
        case _:
            pass
    return Tick(
        name=row.name,
        expected=row.next_at,
        revision=row.revision,
        next_at=found.next_at,
        ids=[tick_id(row.name, tick) for tick in start],
        ticks=start,
        inputs=[tick_input(row.parameter, timing, tick) for tick in start],
        previous=previous,
        skipped=skipped,
        last=last,
    )


def _superseded(name: str) -> bytes:
    return Failure(
        "everstep.Cancelled", f"the next tick of schedule {name} came before it had finished"
    ).encode()
