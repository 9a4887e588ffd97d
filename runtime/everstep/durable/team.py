"""Several calls of a plain workflow at once: a thread each, and a branch each, numbered as they were given.

Positions depend on the order of the calls and on nothing that threads do. The threads are their own, not those
of the pool in which workflows begin: however many workflows wait for their calls, the calls get on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from everstep.branch import Branch, current_branch
from everstep.durable.talking import plain_row
from everstep.errors import ControlSignal, UsageError
from everstep.portal import count, on_loop, record_there
from everstep.store.models import CheckpointKind

T = TypeVar("T")

MOST_CALLS = 200
"""In one gather: each has a thread."""


@dataclass(frozen=True, slots=True)
class _End:
    """How a call ended."""

    number: int
    value: Any = None
    error: BaseException | None = None


class Team(Generic[T]):
    """The calls under way. Made in the thread of the workflow that waits for them."""

    def __init__(self, branch: Branch, calls: Sequence[Callable[[], T]]) -> None:
        if len(calls) > MOST_CALLS:
            raise UsageError(
                f"{len(calls)} calls at once would be as many threads; at most {MOST_CALLS}. For more, start "
                f"children with everstep.sync.start() and ask each handle for its result()"
            )
        self._execution = branch.execution
        self._changed = threading.Condition()
        self._ended: deque[_End] = deque()
        self._waiting = False
        self._ends: dict[int, _End] = {}
        self._order: list[int] = []
        self._size = 0
        try:
            for number, (inner, call) in enumerate([(branch.child(), call) for call in calls]):
                self._begin(number, inner, call)
        except BaseException:
            self.wait_all()
            raise

    def results(self) -> tuple[T, ...]:
        """All results, once every call has ended. Raises the error of the first, as given, that failed."""
        self.wait_all()
        return tuple(self.result(number) for number in range(self._size))

    def wait_all(self) -> None:
        """Wait for every call: a thread cannot be stopped. Raises the signal that ended the workflow, if any."""
        while len(self._ends) < self._size:
            self._take_end()
        for end in self._ends.values():
            if isinstance(end.error, ControlSignal):
                raise end.error

    def wait_for(self, number: int) -> None:
        """Wait for one call."""
        while number not in self._ends:
            self._take_end()

    def first(self, left: set[int]) -> int:
        """The one of some calls that ended first; waits for it."""
        while not left.intersection(self._order):
            self._take_end()
        return next(number for number in self._order if number in left)

    def result(self, number: int) -> T:
        """What an ended call returned. Raises what it raised."""
        end = self._ends[number]
        if end.error is not None:
            raise end.error
        return cast(T, end.value)

    def _begin(self, number: int, inner: Branch, call: Callable[[], T]) -> None:
        context = copy_context()
        context.run(current_branch.set, inner)
        thread = threading.Thread(
            target=context.run,
            args=(self._run, number, call),
            name=f"everstep-branch-{inner.path}",
            daemon=True,
        )
        count(self._execution, threads=1)
        try:
            thread.start()
        except BaseException:
            count(self._execution, threads=-1)
            raise
        self._size += 1

    def _run(self, number: int, call: Callable[[], T]) -> None:
        try:
            end = _End(number, value=call())
        except BaseException as error:  # noqa: BLE001
            end = _End(number, error=error)
        with self._changed:
            self._ended.append(end)
            if not self._waiting:
                count(self._execution, threads=-1)
            # Otherwise the thread that waits for this one is counted in its place, without a moment between in which
            # the workflow might seem to do nothing but wait, and park.
            self._waiting = False
            self._changed.notify()

    def _take_end(self) -> None:
        with self._changed:
            if not self._ended:
                self._waiting = True
                count(self._execution, threads=-1)
                self._changed.wait_for(lambda: self._ended)
            end = self._ended.popleft()
        self._ends[end.number] = end
        self._order.append(end.number)


def in_order_of_end(branch: Branch, team: Team[T], size: int) -> Iterator[T]:
    """Results in the order in which the calls ended, the first time; a replay gives them in the same order."""
    left = set(range(size))
    try:
        while left:
            number = _next_number(branch, team, left)
            left.remove(number)
            yield team.result(number)
    finally:
        team.wait_all()


def _next_number(branch: Branch, team: Team[Any], left: set[int]) -> int:
    execution, position = branch.execution, branch.next_position()
    row = execution.recorded(position, CheckpointKind.VALUE, "next")
    if row is not None:
        assert row.output is not None
        number = int(msgspec.json.decode(row.output))
        team.wait_for(number)
        return number
    number = team.first(left)
    execution.check()
    body = msgspec.json.encode(number)
    row = plain_row(position, CheckpointKind.VALUE, "next", output=body)
    on_loop(execution, record_there(execution, row))
    return number
