"""When a schedule ticks: cron expressions and intervals, in a time zone. Pure: the same answer in every process.

A cron expression names local times. Each of them is one instant: a local time that a change of the clocks
leaves out is the first instant after the gap, one that comes twice is its first instant. Expressions whose
hour is `*` name a rhythm rather than times of day: they go on through a repeated hour. `cronsim` reads the
fields and walks the calendar on plain local times; what the zone does to them is decided here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from everstep.errors import UsageError

_SECOND = timedelta(seconds=1)
_FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_ANY_DAY = datetime(2024, 1, 1)  # noqa: DTZ001 - local time without a zone, as cronsim is used
_LONGEST = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class Every:
    """A tick each `interval`, counted from Monday 1970-01-05 00:00 UTC, so that all workers count alike."""

    interval: timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta):
            raise UsageError(
                f"every= takes a timedelta, such as timedelta(minutes=5), not {self.interval!r}"
            )
        if self.interval % _SECOND or not _SECOND <= self.interval <= _LONGEST:
            raise UsageError(
                f"every= is a whole number of seconds, at least one and at most ten years, not {self.interval}"
            )

    def after(self, instant: datetime) -> datetime | None:
        """The first tick later than `instant`."""
        done = (instant - _FIRST_MONDAY) // self.interval
        return _FIRST_MONDAY + (done + 1) * self.interval

    def local(self, tick: datetime) -> datetime:
        """The tick as the workflow is given it."""
        return tick.astimezone(UTC)

    def instant(self, moment: datetime) -> datetime:
        """A moment that a person wrote; without an offset it is in UTC."""
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, or six with seconds first, in a time zone."""

    expression: str
    timezone: str

    def __post_init__(self) -> None:
        if not isinstance(self.timezone, str):
            raise UsageError(
                f"timezone= takes a name such as 'Europe/Paris', not {self.timezone!r}"
            )
        _zone(self.timezone)
        try:
            CronSim(self.expression, _ANY_DAY)
        except CronSimError as error:
            raise UsageError(
                f"cron expression {self.expression!r}: {error}. It has five fields, minute hour day month "
                f"weekday, or six with seconds first, such as '0 7 * * MON-FRI'"
            ) from None
        if self.after(_ANY_DAY.replace(tzinfo=UTC)) is None:
            raise UsageError(f"cron expression {self.expression!r} names a day that never comes")

    def after(self, instant: datetime) -> datetime | None:
        """The first tick later than `instant`; None if there is none within fifty years."""
        zone = _zone(self.timezone)
        here = instant.astimezone(zone)
        if not self._is_rhythm() or not _is_repeated(here.replace(tzinfo=None), zone):
            return self._first_pass(here, instant, zone)
        if here.fold == 0:
            tick = self._first_pass(here, instant, zone)
            if tick is not None and _in_one_pass(here, tick.astimezone(zone)):
                return tick
        return self._second_pass(here, zone) or self._first_pass(here, instant, zone)

    def local(self, tick: datetime) -> datetime:
        """The tick as the workflow is given it: in the schedule's time zone."""
        return tick.astimezone(_zone(self.timezone))

    def instant(self, moment: datetime) -> datetime:
        """A moment that a person wrote; without an offset it is in the schedule's time zone."""
        return moment if moment.tzinfo else _first(moment, _zone(self.timezone))

    def _first_pass(self, here: datetime, instant: datetime, zone: ZoneInfo) -> datetime | None:
        # `_first` never falls as local times rise, and that of `here` is not later than `instant`: no local
        # time up to `here` need be looked at.
        firsts = (_first(local, zone) for local in self._locals(here.replace(tzinfo=None)))
        return next((first for first in firsts if first > instant), None)

    def _second_pass(self, here: datetime, zone: ZoneInfo) -> datetime | None:
        """The first tick later than `here` in the second pass of the hour that it belongs to."""
        wall = here.replace(tzinfo=None)
        length = _offset(wall, zone, fold=0) - _offset(wall, zone, fold=1)
        for local in self._locals(wall if here.fold else wall - length):
            if local >= wall + length:
                return None
            if _is_repeated(local, zone):
                return (local - _offset(local, zone, fold=1)).replace(tzinfo=UTC)
        return None

    def _locals(self, wall: datetime) -> Iterator[datetime]:
        """Local times later than `wall` that match, without their zone."""
        return CronSim(self.expression, wall)

    def _is_rhythm(self) -> bool:
        return self.expression.split()[-4] in ("*", "*/1")


Timing = Cron | Every


def make_timing(cron: str | None, every: timedelta | None, timezone: str) -> Timing:
    """A schedule's timing, from one of the two. Raises UsageError."""
    if (cron is None) == (every is None):
        raise UsageError("a schedule has either a cron expression or every=, and not both")
    if cron is None:
        return Every(every)  # type: ignore[arg-type]
    if not isinstance(cron, str):
        raise UsageError(
            f"a schedule's cron expression is a text such as '0 7 * * *', not {cron!r}"
        )
    return Cron(" ".join(cron.split()), timezone)


def ticks(timing: Timing, start: datetime, end: datetime) -> Iterator[datetime]:
    """All ticks from `start` on that are earlier than `end`."""
    tick = timing.after(start - timedelta(microseconds=1))
    while tick is not None and tick < end:
        yield tick
        tick = timing.after(tick)


@functools.cache
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"there is no time zone {name!r}: use a name such as 'Europe/Paris' or 'UTC'"
        ) from None


def _first(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a local time: its first if it comes twice, the end of the gap if it does not come."""
    first = (local - _offset(local, zone, fold=0)).replace(tzinfo=UTC)
    if first.astimezone(zone).replace(tzinfo=None) == local:
        return first
    # In a gap, the offset of fold 1 is the one after it: the change lies between these two instants.
    before, after = (local - _offset(local, zone, fold=1)).replace(tzinfo=UTC), first
    old = before.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after


def _is_repeated(local: datetime, zone: ZoneInfo) -> bool:
    return _offset(local, zone, fold=0) > _offset(local, zone, fold=1)


def _in_one_pass(one: datetime, other: datetime) -> bool:
    """Whether no change of the clocks lies between two local times of one repeated hour."""
    return one.utcoffset() == other.utcoffset() and other - one < timedelta(days=1)


def _offset(local: datetime, zone: ZoneInfo, *, fold: int) -> timedelta:
    offset = local.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None
    return offset
