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
        """Start workflows again, from the next tick on."""
        self._on_loop(self._inner.resume(name))

    def set(self, name: str, **changes: Unpack[Changes]) -> None:
        """Change what is given, until the code declares something else."""
        self._on_loop(self._inner.set(name, **changes))

    def reset(self, name: str) -> None:
        """Take back every change."""
        self._on_loop(self._inner.reset(name))

    def trigger(self, name: str) -> str:
        """Start its workflow now. Returns the workflow's id."""
        return self._on_loop(self._inner.trigger(name))

    def backfill(self, name: str, start: datetime, end: datetime) -> Backfill:
        """Start the workflows of past ticks that have none."""
        return self._on_loop(self._inner.backfill(name, start, end))

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._wait(coroutine)
        return result
