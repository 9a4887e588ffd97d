"""client.schedules without `await`: for sync.Client."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar, Unpack

from everstep.client import timetable as asynchronous
from everstep.client.timetable import Backfill, Changes
from everstep.store.schedules import ScheduleInfo

T = TypeVar("T")


class Timetable:
    """The schedules of one schema. Methods and errors are those of everstep.client.timetable.Timetable."""

    def __init__(
        self, inner: asynchronous.Timetable, wait: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._inner = inner
        self._wait = wait

    def list(self) -> Sequence[ScheduleInfo]:
        """All schedules, by name."""
        return self._on_loop(self._inner.list())

    def pause(self, name: str) -> None:
        """Start nothing more at its ticks. What runs goes on."""
        self._on_loop(self._inner.pause(name))

    def resume(self, name: str) -> None:
        """Start workflows again, from the next tick on: those of the pause are not caught up."""
        self._on_loop(self._inner.resume(name))

    def set(self, name: str, **changes: Unpack[Changes]) -> None:
        """Change what is given, until the code declares something else. Every worker follows within a second."""
        self._on_loop(self._inner.set(name, **changes))

    def reset(self, name: str) -> None:
        """Take back every change: put in force what the code declares. A pause stays."""
        self._on_loop(self._inner.reset(name))

    def trigger(self, name: str) -> str:
        """Start its workflow now, paused or not, beside its ticks. Returns the workflow's id."""
        return self._on_loop(self._inner.trigger(name))

    def backfill(self, name: str, start: datetime, end: datetime) -> Backfill:
        """Start the workflows of ticks from `start` to before `end`, and not in the future, that have none.

        They are started all at once, whatever the policy on overlap: their queue decides how many run. Without
        a time zone, `start` and `end` are in the schedule's.
        """
        return self._on_loop(self._inner.backfill(name, start, end))

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._wait(coroutine)
        return result
