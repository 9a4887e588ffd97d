"""What a schedule is: a workflow function started at its ticks, and what happens to ticks that come too late.

Definitions and decisions, without a database: `due` says which ticks to start and which is the next one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, ClassVar, get_type_hints

import msgspec

from everstep.cron import Every, Timing, make_timing, ticks
from everstep.definitions import Workflow
from everstep.errors import UsageError

ON_TIME = timedelta(minutes=1)
"""A tick this late or less is on time; what is later was missed, and the catch-up policy decides."""

MOST_CAUGHT_UP = 10_000
"""The largest number of missed ticks that a policy may ask for."""

ROUND = 2_000
"""Ticks of one schedule that one statement starts."""

_CATCH_UP = re.compile(r"(skip|latest|all:([1-9][0-9]*))\Z")
_NAME = re.compile(r"[^:\s](?:[^:]*[^:\s])?\Z")


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What becomes of ticks that nobody was there for. Ticks on time are always started.

    SKIP: nothing. LATEST: if no tick is on time, the newest one missed. all(n): the newest n missed.
    """

    policy: str
    most: int = 0

    SKIP: ClassVar[CatchUp]
    LATEST: ClassVar[CatchUp]

    @staticmethod
    def all(most: int) -> CatchUp:
        """Every missed tick, but not more than the newest `most`."""
        if not isinstance(most, int) or not 1 <= most <= MOST_CAUGHT_UP:
            raise UsageError(f"CatchUp.all takes 1 to {MOST_CAUGHT_UP:,} ticks, not {most!r}")
        return CatchUp("all", most)

    @staticmethod
    def parse(text: str) -> CatchUp:
        """The policy of its text form: skip, latest, all:100."""
        found = _CATCH_UP.match(text)
        if found is None:
            raise UsageError(f"catch-up is skip, latest or all:N, such as all:100, not {text!r}")
        return CatchUp.all(int(found[2])) if found[2] else CatchUp(found[1])

    def __str__(self) -> str:
        return f"all:{self.most}" if self.most else self.policy


CatchUp.SKIP = CatchUp("skip")
CatchUp.LATEST = CatchUp("latest")


class Overlap(StrEnum):
    """What happens at a tick while the workflow that the tick before it started is still open."""

    ALLOW = "allow"
    SKIP = "skip"
    CANCEL_PREVIOUS = "cancel_previous"


@dataclass(frozen=True)
class Schedule:
    """A workflow function started at each tick, as `@app.schedule` declares it."""

    name: str
    workflow: Workflow[Any, Any]
    queue: str
    timing: Timing
    catch_up: CatchUp = CatchUp.LATEST
    overlap: Overlap = Overlap.ALLOW

    def __post_init__(self) -> None:
        good = isinstance(self.name, str) and _NAME.match(self.name) and self.name.isprintable()
        if not good:
            raise UsageError(f"a schedule has a printable name without a colon, not {self.name!r}")
        if len(self.name.encode()) > 200:
            raise UsageError(f"a schedule's name has at most 200 bytes: {self.name!r}")
        _ = self.parameter

    @property
    def parameter(self) -> str:
        """The name of the parameter that takes the tick. Raises UsageError if the function cannot take one."""
        parameters = list(inspect.signature(self.workflow.function).parameters.values())
        needed = [p.name for p in parameters[1:] if p.default is p.empty]
        if not parameters or needed:
            raise UsageError(
                f"schedule {self.name}: its function takes the tick, a datetime, and nothing else without a "
                f"default: write `def {self.workflow.function.__name__}(tick: datetime)`"
            )
        return parameters[0].name

    def check(self) -> None:
        """Raises UsageError unless the function's first parameter is annotated as a datetime."""
        if get_type_hints(self.workflow.function).get(self.parameter) is not datetime:
            raise UsageError(
                f"schedule {self.name}: annotate the parameter {self.parameter} with datetime"
            )


def make_schedule(
    name: str,
    workflow: Workflow[Any, Any],
    *,
    queue: str,
    timing: tuple[str | None, timedelta | None, str],
    catch_up: CatchUp,
    overlap: Overlap,
) -> Schedule:
    """A checked Schedule. `timing`: cron expression, interval, time zone. Raises UsageError."""
    made = make_timing(*timing)
    if isinstance(made, Every) and timing[2] != "UTC":
        raise UsageError(f"schedule {name}: an interval counts instants, so it has no time zone")
    check_policies(name, catch_up, overlap)
    return Schedule(name, workflow, queue, made, catch_up, Overlap(overlap))


def check_policies(name: str, catch_up: object, overlap: object) -> None:
    """Raises UsageError if one of them is none."""
    if not isinstance(catch_up, CatchUp):
        raise UsageError(
            f"schedule {name}: catch_up= is CatchUp.SKIP, CatchUp.LATEST or CatchUp.all(n), not {catch_up!r}"
        )
    if overlap not in set(Overlap):
        policies = ", ".join(f"Overlap.{each.name}" for each in Overlap)
        raise UsageError(f"schedule {name}: overlap= is one of {policies}, not {overlap!r}")


@dataclass(frozen=True, slots=True)
class Due:
    """Ticks to start now, oldest first, and the tick after them."""

    start: tuple[datetime, ...]
    next_at: datetime | None


def due(timing: Timing, next_at: datetime, now: datetime, catch_up: CatchUp) -> Due:
    """What to do about a schedule whose next tick has come: `next_at` is a tick and not later than `now`."""
    on_time = max(next_at, now - ON_TIME)
    fresh = list(ticks(timing, on_time, now + timedelta(microseconds=1)))
    chosen = [*_caught_up(timing, next_at, on_time, catch_up, fresh), *fresh]
    if len(chosen) > ROUND:
        return Due(tuple(chosen[:ROUND]), chosen[ROUND])
    return Due(tuple(chosen), timing.after(now))


def tick_id(schedule: str, tick: datetime) -> str:
    """The id of the workflow of a tick: one tick, one id, one workflow."""
    return f"sched:{schedule}:{int(tick.timestamp())}"


def tick_input(parameter: str, timing: Timing, tick: datetime) -> bytes:
    """The input of the workflow of a tick, in strict JSON."""
    return msgspec.json.encode({parameter: timing.local(tick)})


def _caught_up(
    timing: Timing, start: datetime, end: datetime, catch_up: CatchUp, fresh: Sequence[datetime]
) -> list[datetime]:
    """Those of the missed ticks, from `start` to before `end`, that are started all the same."""
    if catch_up == CatchUp.SKIP or (catch_up == CatchUp.LATEST and fresh):
        return []
    return newest(timing, start, end, catch_up.most or 1)


def newest(timing: Timing, start: datetime, end: datetime, most: int) -> list[datetime]:
    """The newest `most` ticks from `start` to before `end`, without counting all there are since `start`."""
    span = timedelta(hours=1)
    while True:
        begin = max(start, end - span)
        found = list(ticks(timing, begin, end))
        if len(found) >= most or begin == start:
            return found[-most:]
        span *= 4


def preview(timing: Timing, now: datetime, count: int) -> list[datetime]:
    """The next ticks."""
    return list(islice(ticks(timing, now, datetime.max.replace(tzinfo=now.tzinfo)), count))
