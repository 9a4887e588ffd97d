"""What a running workflow knows of itself: its log, what its branches wait for, and where it stands with the fence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec import Struct

from everstep.acknowledgement import Acknowledgement
from everstep.branch import Branch, current_branch, place
from everstep.codec import Arguments
from everstep.encoding import PLAIN, Encoding
from everstep.errors import ControlSignal, Fenced, NonDeterminismError, Parked, UsageError
from everstep.recorder import Probe, Recorder
from everstep.store.models import Checkpoint, CheckpointKind, Start


@dataclass(frozen=True, slots=True)
class Wait:
    """What a branch waits for: an instant, if any, how many signals its last look knew of, if it looks, and keys.

    The keys say what it waits for, for people and for the sweep (docs/internals/waiting.md).
    """

    until: datetime | None
    signals: int | None
    keys: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Execution:
    """One workflow under way on this worker, from its claim to its end, park or fence."""

    id: str
    name: str
    epoch: int
    loop: asyncio.AbstractEventLoop
    recorder: Recorder
    max_payload: int
    probe: Probe | None = None
    deadline: datetime | None = None
    log: dict[tuple[str, int], Checkpoint] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    plain: bool = False
    suspect: bool = False
    signal: ControlSignal | None = None
    broken: Exception | None = None
    over: bool = False
    abandoned: bool = False
    overdue: list[Any] = field(default_factory=list)
    running_out: asyncio.Lock | None = None
    pending: Acknowledgement | None = None
    parking: Acknowledgement | None = None
    steps_running: int = 0
    engaged: int = 0
    threads: int = 1
    moves: int = 0
    branches: int = 0
    waits: dict[tuple[str, int], Wait] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)
    named: set[str] | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    held: list[Any] = field(default_factory=list)
    passed: dict[str, Branch] = field(default_factory=dict)
    teller: asyncio.Task[None] | None = None
    encoding: Encoding = PLAIN
    generation: int = 0
    arguments: Arguments | None = None

    @property
    def progressed(self) -> bool:
        """Whether it has recorded something since it was claimed."""
        return self.pending is not None and self.pending.at is not None

    def recorded(
        self, position: tuple[str, int], kind: CheckpointKind, name: str
    ) -> Checkpoint | None:
        """The checkpoint at a position, if there is one. Raises NonDeterminismError if it is another step's."""
        row = self.log.get(position)
        passed = self.passed.pop(position[0], None) if self.passed and row is not None else None
        if row is not None and (row.kind != kind or row.name != name):
            if self.abandoned:
                raise Fenced  # a task that the workflow left: what it does as it is stopped says nothing of the code
            if passed is not None and passed.go_back():
                raise asyncio.CancelledError  # it was cancelled here; what it awaited had not come then
            expected = f"{CheckpointKind(row.kind).name.lower()} {row.name}"
            # The first divergence is the one to tell.
            self.broken = self.broken or NonDeterminismError(
                self.id, place(*position), expected, f"{kind.name.lower()} {name}"
            )
            raise self.broken
        return None if row is None else self.encoding.opened(self.id, row)

    def ended_at(self, branch: Branch, how: str) -> None:
        """The function is over. Raises NonDeterminismError if its own branch has recorded steps beyond that."""
        row = self.log.get((branch.path, branch.seq + 1))
        if row is not None:
            expected = f"{CheckpointKind(row.kind).name.lower()} {row.name}"
            raise NonDeterminismError(self.id, place(branch.path, row.seq), expected, how)

    def record(self, row: Checkpoint, child: Start | None = None) -> Acknowledgement:
        """Hand a checkpoint to the next group commit, and with it a child's start. Called on the event loop."""
        if self.over:
            raise Fenced
        if isinstance(self.signal, (Fenced, Parked)):
            # A step that ended after its workflow had left: this worker may own it anew, at another epoch.
            raise self.signal
        stored = self.encoding.row(self.id, row)
        start = child and self.encoding.start(child)
        self.pending = self.recorder.checkpoint(self, stored, start)
        return self.pending

    async def settle(self) -> None:
        """Wait until everything recorded so far is durable, and raise if this worker may not go on."""
        pending = self.pending
        if pending is not None and pending.at is None:
            # Written out, for every step passes here: what `engagement` does.
            self.engaged += 1
            try:
                await pending.wait()
            finally:
                self.engaged -= 1
        if self.recorder.leaving:
            await self.recorder.left.wait()
        await self.begin_anew()

    async def begin_anew(self) -> None:
        """Before an effect that no run had: what a replay has to wait for, and what was decided from outside."""
        if self.log:
            await self.end_of_log()
        self.check()

    async def end_of_log(self) -> None:
        """A branch has come to the end of its log: from here on it is a first run. What cancelled it comes first.

        A task made in a block whose time had run out waits until the block was cancelled. If the task was, so it is
        again; one that outlived the block goes on.
        """
        branch = current_branch.get()
        while branch is not None and branch.held_by and not branch.told_before(branch.held_by[0]):
            await branch.held_by[0].passed.wait()
            branch.held_by = branch.held_by[1:]
        if branch is not None and not branch.live:
            branch.live = True
            if branch.task is not None:
                await branch.task.begin_anew()

    @contextmanager
    def engagement(self) -> Iterator[None]:
        """While a branch waits for the engine itself, and goes on by itself: nobody would wake it from a park."""
        self.engaged += 1
        try:
            yield
        finally:
            self.engaged -= 1
            self.moves += 1

    def check(self) -> None:
        """Raise what was decided about this execution from outside, if anything was.

        Every external effect begins behind this: once the lease has run out by our own clock, others may run
        the workflow, and a worker that was frozen meanwhile must begin nothing. What broke the workflow stays:
        code that catches every exception cannot run on into effects that its log does not know.
        """
        if self.over:
            raise Fenced
        if self.signal is None and not self.recorder.held():
            self.signal = Fenced()
        if self.signal is not None:
            raise self.signal
        if self.broken is not None:
            raise self.broken
        if self.overdue and (branch := current_branch.get()) is not None and branch.overdue:
            # As far as its log reaches: here the first run was cancelled, because its time was up.
            branch.tell_limit()

    def interrupt(self, signal: ControlSignal) -> None:
        """Stop the workflow at its next await, and every later step. Called on the event loop.

        A plain workflow's threads cannot be stopped: what they wait for on the loop is.
        """
        if self.signal is None:
            self.signal = signal
            if self.plain:
                self.stop_tasks()
            elif self.task is not None:
                self.task.cancel()

    def stop_tasks(self) -> None:
        """Cancel the tasks its branches made, or its threads wait for, and that nobody else cancels."""
        self.abandoned = True
        for task in tuple(self.tasks):
            task.cancel()


class StepContext(Struct, frozen=True):
    """What a step's code may know: for idempotency keys at outside services, and for logs."""

    workflow_id: str
    branch: str
    seq: int
    name: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt and every replay of this step, and of no other step."""
        return f"{self.workflow_id}:{place(self.branch, self.seq)}"


AttemptCall = Callable[[StepContext], Any]
"""Makes an attempt of a step: its value, or a coroutine of it."""

current_step: ContextVar[StepContext | None] = ContextVar("everstep_step", default=None)


def branch_here(what: str) -> Branch:
    """The branch this code runs in. Raises UsageError outside of a workflow."""
    branch = current_branch.get()
    if branch is None:
        inside = "a step" if current_step.get() is not None else "no workflow"
        raise UsageError(f"{what} works inside a workflow function; this code runs in {inside}")
    return branch


def awaiting_branch(what: str) -> Branch:
    """The branch of an async workflow, for what gives a coroutine. Raises UsageError elsewhere.

    A plain workflow comes here by way of everstep.sync (`crossing`), which waits for the coroutine.
    """
    branch = branch_here(what)
    if branch.execution.plain and not branch.crossing:
        raise UsageError(
            f"this workflow is a plain function, and nobody awaits {what} in it. "
            f"Call {what.replace('everstep.', 'everstep.sync.').removesuffix(')')}…)"
        )
    return branch


def workflow_id() -> str:
    """The id of the workflow this code runs in, also inside its steps. Raises UsageError elsewhere."""
    step = current_step.get()
    return step.workflow_id if step is not None else branch_here("workflow_id()").execution.id


def step_context() -> StepContext:
    """What the running step knows of itself. Raises UsageError outside of a step."""
    step = current_step.get()
    if step is None:
        raise UsageError("step_context() works inside a step")
    return step


def log_of(rows: Iterable[Checkpoint]) -> dict[tuple[str, int], Checkpoint]:
    """A workflow's checkpoints by position."""
    return {(row.branch, row.seq): row for row in rows}
