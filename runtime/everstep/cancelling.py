"""Tasks that a workflow cancels: how far one had come is recorded, and a replay cancels it again there.

A replay is quick. What cancels a task (its maker, a task group) gets there long before the task has come as far as in
the first run. Told at once, a task that had finished would come back as cancelled, and one that was cleaning up would
never have begun. So `cancel()` writes down how far the task had come, in a branch of the task's own, and at a replay
the task is told there; or at the end of its log, if nothing was written down (docs/internals/cancelling.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from functools import partial
from typing import Any

from everstep.branch import NEVER, Branch, current_branch
from everstep.context import Execution
from everstep.cuts import Cut, cut_of, place_of, row_of
from everstep.durable.stopping import be_stopped, stops_itself
from everstep.durable.waiting import standstill
from everstep.errors import ControlSignal


class BranchTask(asyncio.Task[Any]):
    """A task that a workflow made, or the workflow's own.

    Cancellations are numbered: so many were `_told`; those in `_held` were asked for and are told later, at a replay. It
    came past the place of `_passed` of them, and asyncio knows nothing of these.
    """

    branch: Branch | None = None
    _asked = 0
    _told = 0
    _passed = 0
    _held: deque[Any] | None = None
    _next: Cut | None = None

    def belong(self, branch: Branch) -> None:
        """To its branch; said before the task begins."""
        self.branch = branch
        branch.task = self
        if branch.execution.log:
            self._look_ahead(branch)

    def cancel(self, msg: Any | None = None) -> bool:
        """As asyncio's; at a replay the task is told once it has come as far as in the first run."""
        branch = self.branch
        # In no branch: by what stops the workflow, by a time limit of it, or by a step's own code in this task.
        if branch is None or current_branch.get() is None or self.done():
            return super().cancel(msg)
        if not cancels_itself(branch.execution):
            return super().cancel(msg)
        self._asked += 1
        if self._asked <= self._told:
            return True  # it came past that place before anybody asked
        cut = None if self._next is None or self._next.over else self._next
        never_began = cut is not None and cut.at is None and not self._begun()
        at_once = branch.live and cut is None and not branch.overdue
        if at_once or never_began or self._by_own_group(branch):
            return self._tell(branch, msg)
        self._hold(branch, msg)
        if branch.stopping:
            self.arrive()
        return True

    def cancelling(self) -> int:
        return self.heard + len(self._held or ())

    def uncancel(self) -> int:
        if self._held:
            self.pass_cut()
        elif not self._passed:
            return super().uncancel()
        self._passed -= 1
        return self.cancelling()

    @property
    def heard(self) -> int:
        """As `cancelling()`, but for those that were held back."""
        return super().cancelling() + self._passed

    @property
    def held_back(self) -> bool:
        """Whether a cancellation was asked for that it has not been told."""
        return bool(self._held) and not self.done()

    def goes_after(self, limit: Any) -> bool:
        """Whether a time limit is still to be told that ran out before this was cancelled."""
        if limit.delivered or limit.passed.is_set() or self.branch is None:
            return False
        row = self.branch.execution.log.get(place_of(self.branch, self._told + 1))
        if row is None or row.recorded_at is None:
            return True
        if limit.ran_out_at is None:
            return False
        if limit.branch is self.branch:
            return not self.branch.cut_next()
        return bool(limit.ran_out_at < row.recorded_at)

    def tell_held(self) -> None:
        """It has come as far as it gets: the oldest cancellation that was held back comes through."""
        if self._held and self.branch is not None:
            self._tell(self.branch, self._held.popleft())

    def arrive(self) -> None:
        """It waits to be stopped, as its log says: if by a cancellation, it is told now, or when this is asked."""
        if self._held and self.branch is not None and self.branch.cut_here():
            self.tell_held()

    def wait_to_be_stopped(self) -> None:
        """It begins to. Raises CancelledError if nobody will stop it: it came past where it was told in the first run."""
        assert self.branch is not None
        if self._next is not None and self._next.over and not self.branch.limits:
            raise asyncio.CancelledError
        self.arrive()

    async def oversleep(self) -> None:
        """In a sleep: wait to be stopped, if the log says that it was cut short, however long it is over by now."""
        assert self.branch is not None
        if self._next is not None and self._next.asleep and self.branch.cut_here():
            await be_stopped(self.branch.execution)

    async def begin_anew(self) -> None:
        """At the end of its log, before an effect that no run had. A cancellation comes first, asked or foreseen."""
        assert self.branch is not None
        if self.branch.cut_here():
            await be_stopped(self.branch.execution)
        if self._held and not self.branch.overdue:
            self.tell_held()
            await asyncio.sleep(0)
        if self._next is not None and self._next.over:
            raise asyncio.CancelledError

    def end(self) -> None:
        """It is over. That it ended as cancelled is recorded, if it had been told."""
        branch = self.branch
        if branch is None or not self._told or not self.cancelled():
            return
        if self._next is None and cancels_itself(branch.execution):
            self._record(branch, self._told + 1, Cut(branch.come, over=True))

    def pass_within(self) -> None:
        """It leaves a block whose time ran out. If it was cancelled in there after that, it need not be told any more."""
        while self._next is not None and self._next.within and self.branch is not None:
            if self._next.limits != self.branch.told or not self.branch.cut_here():
                return
            self.pass_cut()

    def pass_cut(self) -> bool:
        """It goes on from where it was cancelled, and was not told: what it awaited is there (see "a place that is passed").

        Returns whether it was told by the call that it makes here.
        """
        if self._next is not None and self._next.called:
            self._pass_called()
            return True
        if self._held:
            self._held.popleft()
        self._told += 1
        self._passed += 1
        if self.branch is not None:
            self._look_ahead(self.branch)
        return False

    def be_called(self) -> None:
        """Its call tells it: there is nothing more of it in the log, and no cancellation may be lost."""
        assert self.branch is not None
        if self._next is not None:
            return  # the log says that it ended here
        self._record(
            self.branch, self._told + 1, Cut(self.branch.come, limits=self.branch.told, called=True)
        )
        self._pass_called()

    def _pass_called(self) -> None:
        assert self.branch is not None
        self._asked += 1
        self._told += 1
        self._look_ahead(self.branch)

    def _by_own_group(self, branch: Branch) -> bool:
        """Whether a task group of its own cancels it (a member's callback does), and it has come as far as in the first run.

        It may not be held back: the group, if it is being left, takes no notice of it, and what comes after must not.
        """
        if asyncio.current_task() is not None or current_branch.get() is not branch:
            return False
        return branch.cut_here() or (self._next is None and not branch.goes_on())

    def _tell(self, branch: Branch, msg: Any | None) -> bool:
        self._told += 1
        if cut_of(branch, self._told) is None:
            at = branch.come if self._begun() else None
            within = any(limit.delivered for limit in branch.limits)
            self._record(branch, self._told, Cut(at, branch.asleep, branch.told, within))
        self._look_ahead(branch)
        if self._next is not None and self._next.called:
            self._pass_called()  # this very cancellation, where it had not come past
        return super().cancel(msg)

    def _record(self, branch: Branch, nth: int, cut: Cut) -> None:
        with contextlib.suppress(ControlSignal):  # who is leaving records nothing any more
            branch.execution.record(row_of(branch, nth, cut))

    def _hold(self, branch: Branch, msg: Any | None) -> None:
        if self._held is None:
            self._held = deque()
        self._held.append(msg)
        execution = branch.execution
        execution.held.append(self)
        if len(execution.held) == 1:
            # An asyncio.Task of its own, and nobody's branch.
            execution.teller = asyncio.Task(_tell_each(execution), loop=execution.loop)

    def _look_ahead(self, branch: Branch) -> None:
        self._next = cut_of(branch, self._told + 1)
        cut = self._next
        branch.cut = NEVER if cut is None or cut.over else (cut.at or 0)
        branch.end = (cut.at or 0) if cut is not None and cut.over else NEVER
        branch.cut_after = 0 if cut is None else cut.limits

    def _begun(self) -> bool:
        coro = self.get_coro()
        return (
            not inspect.iscoroutine(coro) or inspect.getcoroutinestate(coro) != inspect.CORO_CREATED
        )


async def _tell_each(execution: Execution) -> None:
    """Tell those whose cancellation was held back, one by one, each time that nothing moves any more."""
    with execution.engagement():
        while (task := _next_held(execution)) is not None:
            await standstill(execution, partial(_goes_after_limits, task))
            if not cancels_itself(execution):
                break
            # Meanwhile another may have been cancelled, which is where it was then.
            if task is _next_held(execution):
                task.tell_held()
        execution.held.clear()


def _next_held(execution: Execution) -> BranchTask | None:
    """Who is told next: one that has come as far as in the first run, if there is one."""
    held = [task for task in execution.held if task.held_back]
    return next((task for task in held if task.branch.cut_here()), held[0] if held else None)


def _goes_after_limits(task: BranchTask) -> bool:
    assert task.branch is not None
    return any(map(task.goes_after, task.branch.execution.overdue))


def cancels_itself(execution: Execution) -> bool:
    """Whether a cancellation is the workflow's own doing: it is not being stopped, and has not left its tasks behind."""
    return stops_itself(execution) and not execution.abandoned
