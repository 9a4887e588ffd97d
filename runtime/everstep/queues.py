"""Queues as code declares them: how much of them may run, and how fast (docs/guides/queues.md).

A declaration is a value. Workers write it into the database, where it holds until the code declares something
else; what an operator sets meanwhile stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from everstep.errors import UsageError
from everstep.texts import brief

_SECOND = timedelta(seconds=1)
_MOST = 2_147_483_647


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `starts` claims in every `per`, evenly spaced, except that up to `burst` may come at once.

    In every window of w seconds, wherever it begins, there are at most `starts / per * w + burst`.
    """

    starts: int
    per: timedelta = _SECOND
    burst: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        _check_count(self.starts, "a rate's starts")
        _check_count(self.burst, "a rate's burst")
        if not isinstance(self.per, timedelta):
            raise UsageError(
                f"a rate is per a timedelta, such as timedelta(seconds=1): not {self.per!r}"
            )
        if not timedelta(milliseconds=1) <= self.per <= timedelta(days=366):
            raise UsageError(f"a rate is per a time between 1 ms and 366 days, not {self.per}")

    def declaration(self) -> list[float]:
        """As the database takes it: starts, seconds, burst."""
        return [self.starts, self.per.total_seconds(), self.burst]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue that an App declares. Made by `app.queue`; given as `queue=` to a workflow or a start.

    `worker_concurrency`: how many of its workflows one worker runs at a time. `max_running`: how many run at a
    time everywhere. `rate`: how fast they are claimed. `partition_max_running`, `partition_rate`: the same for
    the workflows of one partition; those without a partition are one of their own.
    """

    name: str
    worker_concurrency: int | None = None
    max_running: int | None = None
    rate: Rate | None = None
    partition_max_running: int | None = None
    partition_rate: Rate | None = None

    def __post_init__(self) -> None:
        checked_queue(self.name)
        for limit in ("worker_concurrency", "max_running", "partition_max_running"):
            _check_count(getattr(self, limit), f"queue {self.name}: {limit}")
        for rate in (self.rate, self.partition_rate):
            if rate is not None and not isinstance(rate, Rate):
                raise UsageError(
                    f"queue {self.name}: a rate is written Rate(100, per=…), not {rate!r}"
                )

    def declaration(self) -> dict[str, Any]:
        """As the database takes it, by the names of its columns; null lifts a limit."""
        return {
            "worker_concurrency": self.worker_concurrency,
            "max_running": self.max_running,
            "rate": self.rate and self.rate.declaration(),
            "partition_max_running": self.partition_max_running,
            "partition_rate": self.partition_rate and self.partition_rate.declaration(),
        }

    def __str__(self) -> str:
        return self.name


def checked_queue(name: str) -> str:
    """A queue's name. Raises UsageError."""
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.encode()) <= 200:
        raise UsageError(f"a queue has a printable name of 1 to 200 bytes, not {brief(name)}")
    return name


def queue_name(queue: str | Queue) -> str:
    """The name of a queue given as an object or by name. Raises UsageError."""
    return queue.name if isinstance(queue, Queue) else checked_queue(queue)


def _check_count(value: object, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise UsageError(f"{what} is a whole number of at least 1, not {value!r}")
