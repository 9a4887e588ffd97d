"""A branch: one task of a workflow, which hands out positions and numbers the tasks made in it.

A position in a workflow is (branch, seq). A step takes the next seq of the branch in which it is *called*;
a task that the workflow creates is a branch of its own, numbered in the order of creation, so positions do
not depend on how the event loop interleaves tasks. Tasks made inside a step are not numbered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from everstep.context import Execution

NEVER = -1
"""Where a branch is cut, if it is not."""


@dataclass(eq=False, slots=True)
class Branch:
    """One task of a workflow: hands out positions and numbers the tasks made in it.

    Of time limits (everstep.durable.limits): `limits` it is in, `overdue` those of them that a replay knows to have run
    out, `held_by` those of its makers, and of how many it was `told`. Of cancellation (everstep.cancelling): its `task`,
    whether it is `live`, beyond its log, `asleep` in a durable sleep, or `stopping`, where it waits to be stopped; how far
    it had come, in positions and tasks, when it was `cut`, and after how many time limits: `cut_after`; at its `end` as a
    cancelled one; and `before` it went on from a place where it was cancelled.
    """

    execution: Execution
    path: str = ""
    seq: int = 0
    children: int = 0
    crossing: bool = False
    overdue: list[Any] = field(default_factory=list)
    limits: tuple[Any, ...] = ()
    held_by: tuple[Any, ...] = ()
    told: int = 0
    abandoned: int = 0
    task: Any = None
    live: bool = True
    asleep: bool = False
    stopping: bool = False
    cut: int = NEVER
    cut_after: int = 0
    end: int = NEVER
    before: tuple[int, int] = (0, 0)

    @property
    def come(self) -> int:
        """How far it has come: the positions and tasks it has taken."""
        return self.seq + self.children

    def told_before(self, limit: Any) -> bool:
        """Whether a time limit in this branch is known to have run out no later than one of its makers."""
        return bool(self.overdue) and self.overdue[-1].ran_out_at <= limit.ran_out_at

    def tell(self) -> NoReturn:
        """The innermost limit known to have run out cancels its block. Raises CancelledError."""
        self.overdue.pop().deliver()
        raise asyncio.CancelledError

    def tell_limit(self) -> None:
        """As `tell`, unless it is its task that was cancelled here, before the limit ran out."""
        if not self.cut_here():
            self.tell()

    def cut_next(self) -> bool:
        """Whether it was cancelled in the first run before another time limit of its own ran out."""
        return self.cut != NEVER and self.cut_after <= self.told

    def cut_here(self) -> bool:
        """Whether it was cancelled in the first run where it is now, or before."""
        return self.cut_next() and self.cut <= self.come

    def goes_on(self) -> bool:
        """Whether the log has more of it than what it has done so far, or of tasks that it is still to make."""
        prefix = f"{self.path}." if self.path else ""
        return any(
            seq > self.seq
            if path == self.path
            else path.startswith(prefix) and _number(path[len(prefix) :]) > self.children
            for path, seq in self.execution.log
        )

    def next_position(self) -> tuple[str, int]:
        if self.overdue or self.cut != NEVER or self.end != NEVER:
            self._pass(child=False)
        self.seq += 1
        self.execution.moves += 1
        return self.path, self.seq

    def child(self) -> Branch:
        if self.overdue or self.cut != NEVER or self.end != NEVER:
            self._pass(child=True)
        self.children += 1
        self.execution.moves += 1
        self.execution.branches += 1
        return self._below(str(self.children))

    def _pass(self, *, child: bool) -> None:
        """Go on from where it was cancelled: what it awaited is there this time. A time limit is told here, then.

        Raises CancelledError if the log says that it ended as cancelled without what it takes now, or says nothing more
        of it: it is told here then, and no cancellation is lost.
        """
        if self.cut_here():
            self.before = self.seq, self.children
            self.execution.passed[self.path] = self
            goes_on = self.goes_on()
            while self.cut_here():
                if self.task.pass_cut():
                    raise asyncio.CancelledError
            if not goes_on:
                self.task.be_called()
                raise asyncio.CancelledError
        if self.end != NEVER and self._beyond(self.end, child=child):
            raise asyncio.CancelledError
        if self.overdue and self.overdue[-1].come <= self.come:
            self.tell()

    def _beyond(self, end: int, *, child: bool) -> bool:
        """Whether a task that had come to `end` in all, some of which is in the log, took no position here, or child."""
        last = max((seq for path, seq in self.execution.log if path == self.path), default=0)
        left = max(last - self.seq, 0)
        return self.come + (left + 1 if child else max(left, 1)) > end

    def go_back(self) -> bool:
        """To where it was cancelled and came past, if all that it has done since is a call; else False, and nothing is done."""
        seq, children = self.before
        if current_branch.get() is not self or self.children != children:
            return False
        self.seq = seq
        return True

    def gave_back(self, position: tuple[str, int]) -> bool:
        """Whether it had taken a position, and went back."""
        return position[0] == self.path and position[1] > self.seq

    def closing(self) -> Branch:
        """Of the task in which Python closes an async generator that was left early.

        When it begins depends on the event loop, so it takes no number of the tasks that the workflow makes.
        """
        self.abandoned += 1
        self.execution.branches += 1
        return self._below(f"0.{self.abandoned}")

    def _below(self, name: str) -> Branch:
        path = f"{self.path}.{name}" if self.path else name
        held_by = (*self.held_by, *self.overdue)
        return Branch(self.execution, path, held_by=held_by, live=self.live)


current_branch: ContextVar[Branch | None] = ContextVar("everstep_branch", default=None)


def _number(path: str) -> int:
    """Of the task that a path leads to first."""
    return int(path.partition(".")[0])


@contextmanager
def asleep(branch: Branch | None) -> Iterator[None]:
    """While nothing but its task's own record would say that a wait was cut short."""
    if branch is not None:
        branch.asleep = True
    try:
        yield
    finally:
        if branch is not None:
            branch.asleep = False


def place(path: str, seq: int) -> str:
    """A position as people read it."""
    return f"{path}:{seq}" if path else str(seq)
