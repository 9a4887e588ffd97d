"""For tests of schedules: an oracle that knows cron by looking at every minute, and a clock set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from support.database import Sql

MINUTE = timedelta(minutes=1)
DAY_NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


class HandClock:
    """The engine's clock: stands still until it is moved."""

    def __init__(self, sql: Sql, at: datetime) -> None:
        self._sql = sql
        sql("CREATE TABLE public.hand_clock (at timestamptz NOT NULL)")
        sql("INSERT INTO public.hand_clock VALUES (%s)", [at])
        sql(
            "CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql "
            "STABLE PARALLEL SAFE AS 'SELECT at FROM public.hand_clock'"
        )
        self.at = at

    def set(self, at: datetime) -> None:
        self._sql("UPDATE public.hand_clock SET at = %s", [at])
        self.at = at

    def move(self, **span: float) -> None:
        self.set(self.at + timedelta(**span))


def expected_ticks(
    expression: str, zone: str, start: datetime, end: datetime, step: timedelta = MINUTE
) -> Iterator[datetime]:
    """Ticks of a five-field expression from `start` to before `end`, found without any calendar arithmetic.

    Every instant of `step` is looked at on the wall clock. It is a tick if the wall shows a matching time for
    the first time (or for any time, where the hour is `*`), or if the clock has just been put forward over one.
    """
    fields = expression.split()
    rhythm = fields[1] == "*"
    tz = ZoneInfo(zone)
    instant = start
    before = (start - step).astimezone(tz).replace(tzinfo=None)
    while instant < end:
        here = instant.astimezone(tz)
        wall = here.replace(tzinfo=None)
        skipped = (before + step * n for n in range(1, (wall - before) // step))
        if (matches(fields, wall) and (rhythm or here.fold == 0)) or any(
            matches(fields, left_out) for left_out in skipped
        ):
            yield instant
        before = wall
        instant += step


def matches(fields: list[str], wall: datetime) -> bool:
    minute, hour, day, month, weekday = fields
    if not (_in(minute, wall.minute) and _in(hour, wall.hour) and _in(month, wall.month, 1)):
        return False
    in_month, in_week = _in(day, wall.day, 1), _in(weekday, wall.isoweekday() % 7)
    if day.startswith("*") or weekday.startswith("*"):
        return in_month and in_week
    return in_month or in_week


def _in(field: str, value: int, lowest: int = 0) -> bool:
    for part in field.split(","):
        span, _, every = part.partition("/")
        low, _, high = span.partition("-")
        if span == "*":
            low, high = str(lowest), "99"
        first = DAY_NAMES.index(low) if low in DAY_NAMES else int(low)
        last = first if not high else DAY_NAMES.index(high) if high in DAY_NAMES else int(high)
        if first <= value <= last and (value - first) % int(every or 1) == 0:
            return True
    return False


def utc(text: str) -> datetime:
    """An instant, read as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
