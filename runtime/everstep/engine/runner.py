"""Runs claimed workflows: input in, the function, its ending out. One task each; plain functions in threads."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn

from everstep.app import App
from everstep.branch import Branch, current_branch
from everstep.cancelling import BranchTask
from everstep.context import Execution, log_of
from everstep.definitions import Workflow
from everstep.durable.endless import continuation_in, generation_of, main_branch, next_generation
from everstep.encoding import Encoding
from everstep.engine.committer import Committer
from everstep.engine.opening import leave_to_others, opened
from everstep.errors import (
    DEADLINE_EXCEEDED,
    Cancelled,
    CodecError,
    Continued,
    ControlSignal,
    Failure,
    Fenced,
    Parked,
    PayloadError,
)
from everstep.recorder import Probe
from everstep.store.models import Checkpoint, Claimed, Ending

log = logging.getLogger("everstep")

Ended = Callable[[str, Ending, bytes | None, bytes | None], None]


class Runner:
    """The workflows under way in this process, and how many of each queue.

    Whenever one has left, `freed` is set and `left` is called with its queue. `crashed`: those that raised what ends a
    process, such as KeyboardInterrupt.
    """

    def __init__(
        self,
        app: App,
        committer: Committer,
        threads: ThreadPoolExecutor,
        ended: Ended,
        *,
        probe: Callable[[Execution], Probe] | None = None,
    ) -> None:
        self._app = app
        self._probe = probe
        self._committer = committer
        self._threads = threads
        self._encoding = Encoding(app.codec)
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.executions: dict[str, Execution] = {}
        self.running: Counter[str] = Counter()
        self.crashed: set[str] = set()
        self.freed = asyncio.Event()
        self.left: Callable[[str], None] = lambda _: None

    def start(self, claimed: Claimed, log_rows: Iterable[Checkpoint] = ()) -> Execution:
        """Begin, or begin again, a workflow this worker has claimed."""
        workflow = self._app.workflows[claimed.name]
        rows = list(log_rows)
        generation, continued = generation_of(rows)
        given: bytes | CodecError
        try:
            given, rows = opened(self._encoding, claimed, rows, continued)
        except CodecError as error:
            given = error
        execution = Execution(
            id=claimed.id,
            name=claimed.name,
            epoch=claimed.epoch,
            loop=self._loop,
            recorder=self._committer,
            max_payload=self._app.max_payload,
            deadline=claimed.deadline,
            log=log_of(rows),
            plain=not workflow.is_async,
            suspect=claimed.suspect,
            generation=generation,
            arguments=workflow.arguments,
            encoding=self._encoding,
        )
        if self._probe is not None:
            execution.recorder = execution.probe = self._probe(execution)
        self.executions[claimed.id] = execution
        self.running[claimed.queue] += 1
        start = 1 if generation else 0
        branch = Branch(execution, main_branch(generation), seq=start, live=not rows)
        running = self._run(branch, workflow, given)
        execution.task = BranchTask(running, loop=self._loop)
        execution.task.belong(branch)
        execution.task.add_done_callback(partial(self._left, execution, claimed.queue))
        if claimed.cancel or _late(execution):
            # Its last owner left before it saw the cancellation; or the deadline passed while it was queued.
            execution.signal = Cancelled()
        return execution

    def interrupt(self, workflow_id: str, signal: ControlSignal) -> None:
        """Stop a workflow if it is here."""
        if execution := self.executions.get(workflow_id):
            execution.interrupt(signal)

    def safe(self) -> bool:
        """Whether nothing here is suspected to crash the process: it is gone, or has got further than last time."""
        return not any(e.suspect and not e.progressed for e in self.executions.values())

    def fence_all(self) -> None:
        """The lease is gone: drop everything."""
        for execution in list(self.executions.values()):
            execution.interrupt(Fenced())

    async def _run(
        self, branch: Branch, workflow: Workflow[Any, Any], given: bytes | CodecError
    ) -> None:
        execution = branch.execution
        try:
            execution.check()
            if isinstance(given, CodecError):
                await leave_to_others(execution, given)
                return
            output = await self._call(branch, workflow, given)
            ending: tuple[Ending, bytes | None, bytes | None] = (Ending.SUCCEEDED, output, None)
        except ControlSignal as signal:
            if not isinstance(signal, Cancelled):
                return
            ending = _cancelled(execution)
        except (asyncio.CancelledError, BaseExceptionGroup) as error:
            if isinstance(execution.signal, (Fenced, Parked)):
                return
            # Without a signal its own code did it, awaiting a task that was cancelled.
            ending = _failed(error) if execution.signal is None else _cancelled(execution)
        except (KeyboardInterrupt, GeneratorExit):
            # Perhaps not of the workflow's making: this process ends, and it counts as a crash. Nobody would
            # notice otherwise what ends each worker that runs it.
            self.crashed.add(execution.id)
            raise
        except BaseException as error:  # noqa: BLE001
            # SystemExit, and those of others: what pytest.fail raises is no Exception either.
            if isinstance(execution.signal, (Fenced, Parked)):
                return
            ending = _failed(error)
        await self._finish(execution, ending)

    async def _finish(
        self, execution: Execution, ending: tuple[Ending, bytes | None, bytes | None]
    ) -> None:
        """Record the ending. Whoever waits in this process is told once it is durable."""
        execution.signal = execution.broken = None
        execution.over = True
        try:
            await self._end(execution, ending)
            if execution.broken is not None:
                # The ending itself was refused: say so in its place.
                ending = _failed(execution.broken)
                execution.broken = None
                await self._end(execution, ending)
        except (ControlSignal, asyncio.CancelledError):
            return
        if execution.signal is None or isinstance(execution.signal, Cancelled):
            self._ended(execution.id, *ending)

    async def _end(
        self, execution: Execution, ending: tuple[Ending, bytes | None, bytes | None]
    ) -> None:
        how, output, error = ending
        try:
            output, error = self._encoding.ending(execution.id, output, error)
        except PayloadError as refused:
            # Of the codec: this says where and why, and nothing of what was to be hidden.
            _, output, error = _failed(refused)
            how = Ending.FAILED
        await execution.recorder.finish(execution, how, output, error).wait()

    async def _call(self, branch: Branch, workflow: Workflow[Any, Any], body: bytes) -> bytes:
        execution = branch.execution
        token = current_branch.set(branch)
        continued: Continued | None = None
        value: Any = None
        try:
            value = await self._function(workflow, body)
        except (Continued, BaseExceptionGroup) as error:
            if (continued := continuation_in(error)) is None:
                raise
        finally:
            current_branch.reset(token)
            # Tasks it made and did not wait for end with it, as they do with asyncio.run.
            execution.stop_tasks()
        execution.check()
        if continued is not None:
            execution.ended_at(branch, "continue_as_new()")
            await self._hand_over(execution, continued.input)
        execution.ended_at(branch, "the end of the workflow")
        output, _ = workflow.result.round_trip(value, execution.max_payload)
        return output

    async def _function(self, workflow: Workflow[Any, Any], body: bytes) -> Any:
        args, kwargs = workflow.arguments.of_a_start(body)
        if workflow.is_async:
            return await workflow.function(*args, **kwargs)
        # A thread cannot be cancelled: it meets its signal at its next step.
        call = partial(copy_context().run, workflow.function, *args, **kwargs)
        return await self._loop.run_in_executor(self._threads, call)

    async def _hand_over(self, execution: Execution, body: bytes) -> NoReturn:
        """Leave the workflow to its next generation. Raises Parked, or why that was refused."""
        if execution.pending is not None:
            # A row of this generation that is refused fails the workflow; the next one could not tell.
            await execution.pending.wait()
            execution.check()
        row = self._encoding.row(execution.id, next_generation(execution, body))
        await self._committer.hand_over(execution, row, execution.generation + 1).wait()
        execution.check()
        raise AssertionError("a commit takes a workflow that continues, or says why not")

    def _left(self, execution: Execution, queue: str, task: asyncio.Task[None]) -> None:
        if self.executions.get(execution.id) is execution:
            del self.executions[execution.id]
        self.running[queue] -= 1
        self.freed.set()
        self.left(queue)
        if not task.cancelled() and task.exception() is not None:
            log.error("workflow %s: the engine failed", execution.id, exc_info=task.exception())


def _failed(error: BaseException) -> tuple[Ending, bytes | None, bytes | None]:
    return Ending.FAILED, None, Failure.of(error).encode()


def _cancelled(execution: Execution) -> tuple[Ending, bytes | None, bytes | None]:
    failure = Failure("everstep.Cancelled", "the workflow was cancelled")
    if _late(execution):
        failure = DEADLINE_EXCEEDED
    return Ending.CANCELLED, None, failure.encode()


def _late(execution: Execution) -> bool:
    if execution.deadline is None:
        return False
    return execution.recorder.clock.until(execution.deadline) <= 0
