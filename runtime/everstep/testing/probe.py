"""What a test puts between a workflow and its worker: it takes the recorder's place, one probe per claim.

With `replay`, the workflow leaves the worker after each checkpoint as it would leave one that drains (no step is
running, all is durable, it is given back) and is claimed and replayed from its log. At a crash point its worker
dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID
from weakref import WeakSet

from everstep.acknowledgement import Acknowledgement
from everstep.branches import outside_workflow
from everstep.context import AttemptCall, Execution, StepContext
from everstep.engine.tenure import Tenure
from everstep.errors import Fenced, Parked
from everstep.recorder import Acknowledged, Clock, Eyes, Transactor
from everstep.store.models import Checkpoint, CheckpointKind, Ending, Start
from everstep.testing.probed import Gone, ProbedTransactions

log = logging.getLogger("everstep")

When = Literal["before", "after", "recorded"]

STILL_SECONDS = 0.001


@dataclass(eq=False)
class CrashPoint:
    """A step's name and the moment at which its worker dies, `left` times more."""

    step: str
    when: When
    left: int
    reached: int = 0


@dataclass(eq=False)
class Plan:
    """What the probes of a worker do. `bury` tells the database that a worker is dead."""

    replay: bool = False
    skip_pauses: bool = False
    bury: Callable[[UUID], Coroutine[Any, Any, None]] | None = None
    crashes: list[CrashPoint] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def probe(self, tenure: Tenure, execution: Execution) -> Probe:
        """The probe of a workflow just claimed: `Worker(…, probe=plan.probe)`."""
        return Probe(self, tenure, execution)

    def crashes_at(self, step: str, when: When) -> bool:
        """Whether the worker dies here; counted."""
        for point in self.crashes:
            if point.step == step and point.when == when and point.left:
                point.left -= 1
                point.reached += 1
                return True
        return False


class Probe:
    """Stands where the recorder stood, from a claim to whatever ends it."""

    def __init__(self, plan: Plan, tenure: Tenure, execution: Execution) -> None:
        self._plan = plan
        self._tenure = tenure
        self._execution = execution
        self._committer = tenure.committer
        self._holding = False  # nothing new begins: this workflow is about to leave
        self._over = False
        self._ends = False
        self._pausing: WeakSet[asyncio.Task[Any] | None] = WeakSet()
        self._committed: set[tuple[str, int]] = set()
        self.gone = asyncio.Event()

    # -- what a recorder does --------------------------------------------------------------------

    @property
    def leaving(self) -> bool:
        # A step between two attempts goes on: it would begin with its first attempt after a replay.
        return self._committer.leaving or (self._holding and _task_here() not in self._pausing)

    @property
    def left(self) -> asyncio.Event:
        return self._committer.left if self._committer.leaving else self.gone

    @property
    def clock(self) -> Clock:
        return self._committer.clock

    @property
    def eyes(self) -> Eyes:
        return self._committer.eyes

    @property
    def transactor(self) -> Transactor:
        return ProbedTransactions(self, self._committer.transactor)

    def held(self) -> bool:
        return self._committer.held()

    def park(
        self, execution: Execution, wake_at: datetime | None, key: str, signals: int | None
    ) -> Acknowledgement:
        return self._committer.park(execution, wake_at, key, signals)

    def checkpoint(self, execution: Execution, row: Checkpoint, child: Start | None = None) -> Any:
        done = self._committer.checkpoint(execution, row, child)
        if row.kind == CheckpointKind.STARTED:
            return done  # a mark without an outcome would say that its step was interrupted
        if self._plan.crashes_at(row.name, "recorded"):
            self._holding = True
            self._spawn(self._die_after(done))
        else:
            self._leave()
        return done

    def finish(
        self, execution: Execution, ending: Ending, output: bytes | None, error: bytes | None
    ) -> Acknowledged:
        if self._holding and not self._over and ending is not Ending.CANCELLED:
            # Behind its last checkpoint it leaves first, and ends when it has been replayed.
            self._ends = True
            return Gone(self)
        self._over = True
        return self._committer.finish(execution, ending, output, error)

    # -- around attempts -------------------------------------------------------------------------

    def around(self, call: AttemptCall) -> AttemptCall:
        async def attempt(step: StepContext) -> Any:
            self._pausing.discard(_task_here())
            self.reach(step.name, "before")
            value = await call(step)
            self.reach(step.name, self._moment(step))
            return value

        return attempt

    def around_plain(self, call: AttemptCall) -> AttemptCall:
        def attempt(step: StepContext) -> Any:
            self.reach_in_thread(step.name, "before")
            value = call(step)
            self.reach_in_thread(step.name, self._moment(step))
            return value

        return attempt

    def pause(self, seconds: float) -> float:
        if (task := _task_here()) is not None:
            self._pausing.add(task)
        return 0.0 if self._plan.skip_pauses else seconds

    def reach(self, step: str, when: When) -> None:
        """Here the worker dies, if this is planned. Raises Fenced then."""
        if self._plan.crashes_at(step, when):
            self._die()
            raise Fenced

    def reach_in_thread(self, step: str, when: When) -> None:
        if self._plan.crashes_at(step, when):
            self._execution.loop.call_soon_threadsafe(self._die)
            raise Fenced

    def committed(self, place: Any) -> None:
        """A transaction was committed, and recorded itself, unless it is one of another database."""
        if not place.database:
            self._committed.add((place.branch, place.seq))
            self._execution.loop.call_soon_threadsafe(self._leave)

    def _moment(self, step: StepContext) -> When:
        return "recorded" if (step.branch, step.seq) in self._committed else "after"

    # -- leaving ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Leave the worker, as soon as no step is running: what is not recorded would run again."""
        if not self._plan.replay or self._holding or self._over:
            return
        self._holding = True
        self._spawn(self._leave_when_still())

    async def _leave_when_still(self) -> None:
        execution = self._execution
        while not self._still() and not self._over and execution.signal is None:
            if execution.pending is not None and execution.pending.at is None:
                await execution.pending.wait()
            else:
                await asyncio.sleep(STILL_SECONDS)
        if not self._over and execution.signal is None:
            execution.interrupt(Parked())
            await self._tenure.give_back([execution.id])

    def _still(self) -> bool:
        """Whether all is durable and no step is running, unless the workflow has ended without it."""
        execution = self._execution
        durable = execution.pending is None or execution.pending.at is not None
        busy = execution.steps_running or execution.engaged
        return durable and (self._ends or not busy)

    # -- dying -----------------------------------------------------------------------------------

    async def _die_after(self, done: Acknowledged) -> None:
        await done.wait()
        self._die()

    def _die(self) -> None:
        """As a killed process: nothing is written any more, and nothing given back."""
        if not self._tenure.lost.is_set():
            self._tenure.fall_silent()
            self._spawn(self._bury())

    async def _bury(self) -> None:
        try:
            if self._plan.bury is not None:
                await self._plan.bury(self._tenure.me)
        finally:
            self._tenure.lost.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = outside_workflow(lambda: self._execution.loop.create_task(coroutine))
        self._plan.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._plan.tasks.discard(task)
        self.gone.set()
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Fenced):
            log.error("workflow %s: its probe failed", self._execution.id, exc_info=error)


def _task_here() -> asyncio.Task[Any] | None:
    """The task this runs in; None in a thread of a plain workflow."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
