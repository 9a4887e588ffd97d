"""What a person does to schedules: look, pause, resume, change, trigger, fill in the past.

The code declares schedules; what is changed here stays in force until the code declares something else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import TypedDict, Unpack

from everstep.cron import Cron, Every, Timing, make_timing, ticks
from everstep.encoding import Encoding
from everstep.errors import UsageError
from everstep.ids import new_id
from everstep.schedules import CatchUp, Overlap, check_policies, tick_id, tick_input
from everstep.store.connection import Connection, Link
from everstep.store.queues import Queues
from everstep.store.schedules import ScheduleInfo, ScheduleRow, Schedules

MOST_FILLED_IN = 10_000
"""Ticks of one backfill."""

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Backfill:
    """Ids of the workflows a backfill started, and how many of its ticks had one already."""

    started: Sequence[str]
    existing: int


class Changes(TypedDict, total=False):
    """What an operator may change; None is as good as not given. `cron` and `every` exclude each other."""

    cron: str | None
    every: timedelta | None
    timezone: str | None
    catch_up: CatchUp | None
    overlap: Overlap | None
    queue: str | None


class Timetable:
    """The schedules of one schema; `client.schedules`. `started` is called when workflows became claimable.

    Methods that take a name raise UsageError if there is no such schedule, or it is no longer in the code.
    """

    def __init__(
        self, link: Link, schema: str, encoding: Encoding, *, started: Callable[[], None]
    ) -> None:
        self._link = link
        self._schedules = Schedules(schema, encoding)
        self._queues = Queues(schema)
        self._started = started

    async def list(self) -> Sequence[ScheduleInfo]:
        """All schedules, by name."""
        return await self._link.retry(self._schedules.list_schedules)

    async def pause(self, name: str) -> None:
        """Start nothing more at its ticks. What runs goes on."""
        await self._change(name, lambda row: replace(row, paused=True))

    async def resume(self, name: str) -> None:
        """Start workflows again, from the next tick on: those of the pause are not caught up."""
        await self._change(name, lambda row: replace(row, paused=False))

    async def set(self, name: str, **changes: Unpack[Changes]) -> None:
        """Change what is given, until the code declares something else. Every worker follows within a second."""
        if unknown := changes.keys() - Changes.__annotations__.keys():
            raise UsageError(f"a schedule has no {', '.join(sorted(unknown))} to change")
        check_policies(
            name, changes.get("catch_up") or CatchUp.SKIP, changes.get("overlap") or Overlap.ALLOW
        )
        queue = changes.get("queue")
        if queue is not None:
            await self._check_queue(queue)
        await self._change(name, lambda row: _changed(row, changes))

    async def reset(self, name: str) -> None:
        """Take back every change: put in force what the code declares. A pause stays."""
        fields = ("queue", "cron", "every", "timezone", "catch_up", "overlap")
        await self._change(
            name,
            lambda row: replace(row, **{field: row.declared[field] for field in fields}),  # type: ignore[arg-type]
        )

    async def trigger(self, name: str) -> str:
        """Start its workflow now, paused or not, beside its ticks. Returns the workflow's id."""
        id_ = f"sched:{name}:now:{new_id()}"

        async def start(connection: Connection) -> bool:
            row = await self._row(connection, name)
            moment = row.now.replace(microsecond=0)
            body = tick_input(row.parameter, _timing(row), moment)
            return await self._schedules.start(connection, row, [id_], [body]) is not None

        await self._until(start)
        self._started()
        return id_

    async def backfill(self, name: str, start: datetime, end: datetime) -> Backfill:
        """Start the workflows of ticks from `start` to before `end`, and not in the future, that have none.

        They are started all at once, whatever the policy on overlap: their queue decides how many run. Without
        a time zone, `start` and `end` are in the schedule's.
        """
        for moment in (start, end):
            if not isinstance(moment, datetime):
                raise UsageError(f"a backfill takes datetimes, not {moment!r}")
        batches: list[list[str]] = []
        counted = 0

        async def fill(connection: Connection) -> bool:
            nonlocal counted
            row = await self._row(connection, name)
            chosen = _past_ticks(row, start, end)
            counted = len(chosen)
            for first in range(0, counted, _BATCH):
                part = chosen[first : first + _BATCH]
                inputs = [tick_input(row.parameter, _timing(row), tick) for tick in part]
                ids = [tick_id(name, tick) for tick in part]
                done = await self._schedules.start(connection, row, ids, inputs)
                if done is None:
                    return False
                batches.append(sorted(done))
            return True

        await self._until(fill)
        self._started()
        started = [id_ for batch in batches for id_ in batch]
        return Backfill(started, counted - len(started))

    async def _change(self, name: str, edit: Callable[[ScheduleRow], ScheduleRow]) -> None:
        async def change(connection: Connection) -> bool:
            before = await self._row(connection, name)
            row = edit(before)
            if _needs_new_tick(before, row):
                row = replace(row, next_at=_timing(row).after(row.now))
            return row == before or await self._schedules.set(connection, row)

        await self._until(change)

    async def _until(self, attempt: Callable[[Connection], Awaitable[bool]]) -> None:
        """Again while the schedule changes between looking and writing."""
        while not await self._link.retry(attempt):
            continue

    async def _row(self, connection: Connection, name: str) -> ScheduleRow:
        rows = await self._schedules.rows(connection)
        named = {row.name: row for row in rows if row.removed_at is None}
        if name not in named:
            known = ", ".join(named) or "none yet; a worker declares those of its code"
            raise UsageError(f"there is no schedule named {name!r}. There are: {known}")
        return named[name]

    async def _check_queue(self, queue: str) -> None:
        known = sorted(info.queue for info in await self._link.retry(self._queues.list))
        if queue not in known:
            raise UsageError(
                f"there is no queue named {queue!r}. Choose from: {', '.join(known) or 'none yet'}"
            )


def _timing(row: ScheduleRow) -> Timing:
    return make_timing(row.cron, row.interval, row.timezone)


def _changed(row: ScheduleRow, changes: Changes) -> ScheduleRow:
    cron, every, timezone = changes.get("cron"), changes.get("every"), changes.get("timezone")
    if cron is not None or every is not None:
        row = _with_timing(row, make_timing(cron, every, timezone or row.timezone), timezone)
    elif timezone is not None:
        row = _with_timing(row, make_timing(row.cron, row.interval, timezone), timezone)
    return replace(
        row,
        catch_up=str(changes.get("catch_up") or row.catch_up),
        overlap=str(changes.get("overlap") or row.overlap),
        queue=changes.get("queue") or row.queue,
    )


def _with_timing(row: ScheduleRow, timing: Timing, timezone: str | None) -> ScheduleRow:
    match timing:
        case Cron():
            return replace(row, cron=timing.expression, every=None, timezone=timing.timezone)
        case Every():
            if timezone not in (None, "UTC"):
                raise UsageError("an interval has no time zone: it counts instants")
            return replace(row, cron=None, every=timing.interval.total_seconds(), timezone="UTC")


def _needs_new_tick(before: ScheduleRow, after: ScheduleRow) -> bool:
    resumed = before.paused and not after.paused
    timed = (before.cron, before.every, before.timezone) != (
        after.cron,
        after.every,
        after.timezone,
    )
    return resumed or timed


def _past_ticks(row: ScheduleRow, start: datetime, end: datetime) -> list[datetime]:
    timing = _timing(row)
    first, before = timing.instant(start), timing.instant(end)
    if first >= before or first > row.now:
        raise UsageError(
            f"a backfill goes forward, through the past: from {first.isoformat()} to {before.isoformat()} it "
            f"has nothing to fill in"
        )
    last = min(before, row.now + timedelta(microseconds=1))
    chosen = list(islice(ticks(timing, first, last), MOST_FILLED_IN + 1))
    if len(chosen) > MOST_FILLED_IN:
        raise UsageError(
            f"that is more than {MOST_FILLED_IN:,} ticks: fill them in piece by piece, "
            f"first to {chosen[-1].isoformat()}"
        )
    return chosen
