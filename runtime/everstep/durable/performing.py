"""Carries out what flows ask for: on the event loop, or from a plain workflow's thread. Waiting is the only difference."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from everstep.branch import current_branch
from everstep.context import AttemptCall, Execution, StepContext, current_step
from everstep.durable.flows import Attempt, Effect, Flow, Pause, Record, Settle
from everstep.durable.stopping import be_stopped, stops_itself
from everstep.portal import Running, on_loop, record_there


async def perform(flow: Flow, execution: Execution, call: AttemptCall) -> Any:
    """Carry out a flow on the event loop; `call` makes the coroutine of an attempt."""
    if execution.probe is not None:
        call = execution.probe.around(call)
    try:
        effect = next(flow)
        while True:
            result: Any = None
            try:
                match effect:
                    case Settle():
                        await execution.settle()
                    case Attempt(step):
                        result = await _attempt(execution, step, call)
                    case Pause(seconds):
                        await _pause(execution, seconds)
                    case Record(row):
                        execution.record(row)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        return stop.value


async def _attempt(execution: Execution, step: StepContext, call: AttemptCall) -> Any:
    branch_token = current_branch.set(None)
    step_token = current_step.set(step)
    execution.steps_running += 1
    try:
        return await call(step)
    except (Exception, SystemExit) as error:
        if execution.signal is not None:
            # What a step that was stopped raises on its way out is not its outcome.
            raise execution.signal from None
        if isinstance(error, SystemExit):
            raise _exited(error) from error
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if stops_itself(execution) and task is not None and not task.cancelling():
            raise RuntimeError("the step raised CancelledError; nobody had cancelled it") from error
        raise
    finally:
        execution.steps_running -= 1
        execution.moves += 1
        current_step.reset(step_token)
        current_branch.reset(branch_token)


async def _pause(execution: Execution, seconds: float) -> None:
    if seconds == math.inf:
        await be_stopped(execution)
    # Engaged: a workflow that parked now would try again only when it wakes, and from the first attempt on.
    with execution.engagement():
        await asyncio.sleep(_length(execution, seconds))
        await execution.settle()


def _length(execution: Execution, seconds: float) -> float:
    return seconds if execution.probe is None else execution.probe.pause(seconds)


def perform_in_thread(flow: Flow, execution: Execution, call: AttemptCall) -> Any:
    """Carry out a flow from a plain workflow's thread; `call` makes an attempt."""
    if execution.probe is not None:
        call = execution.probe.around_plain(call)
    running = Running(execution)
    try:
        effect = next(flow)
        while True:
            try:
                result = _in_thread(effect, execution, call, running)
            except Exception as error:  # noqa: BLE001
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        return stop.value
    finally:
        running.end()


def _in_thread(effect: Effect, execution: Execution, call: AttemptCall, running: Running) -> Any:
    match effect:
        case Settle():
            _settle_in_thread(execution)
        case Attempt(step):
            running.begin()
            return _attempt_in_thread(step, call)
        case Pause(seconds):
            on_loop(execution, _pause_uncounted(execution, running, seconds))
        case Record(row):
            on_loop(execution, record_there(execution, row))
    return None


async def _pause_uncounted(execution: Execution, running: Running, seconds: float) -> None:
    # A worker that leaves waits for no pause. Engaged before and after: at no moment is nothing under way.
    with execution.engagement():
        running.end()
        try:
            await _pause(execution, seconds)
        finally:
            running.begin()


def _settle_in_thread(execution: Execution) -> None:
    pending = execution.pending
    if (pending is not None and pending.at is None) or execution.recorder.leaving:
        on_loop(execution, execution.settle())
    execution.check()


def _attempt_in_thread(step: StepContext, call: AttemptCall) -> Any:
    branch_token = current_branch.set(None)
    step_token = current_step.set(step)
    try:
        return call(step)
    except SystemExit as error:
        raise _exited(error) from error
    finally:
        current_step.reset(step_token)
        current_branch.reset(branch_token)


def _exited(error: SystemExit) -> RuntimeError:
    """A failure of the step: in a task, SystemExit would end the worker and everything that runs in it."""
    return RuntimeError(f"the step called sys.exit({error.code!r})")
