"""Replay or record: the rule every step follows, once, for coroutines and for plain functions.

`step_flow` is a generator that decides and never waits; it yields what it needs done. `perform` does it on
the event loop, `perform_in_thread` from a plain workflow's thread: waiting is the only difference.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Generator
from typing import Any

from msgspec import Struct

from everstep.codec import JSON, Payload
from everstep.context import Execution, StepContext, current_branch, current_step
from everstep.durable.stopping import STOPPED, be_stopped, stops_itself, was_stopped
from everstep.errors import (
    INTERRUPTED,
    Failure,
    PayloadError,
    StepError,
    StepInterruptedError,
)
from everstep.portal import Running, on_loop, record_there
from everstep.retry import Retry
from everstep.store.models import Checkpoint, CheckpointKind


class Settle(Struct, frozen=True):
    """Wait until everything recorded so far is durable: no effect begins before that."""


class Attempt(Struct, frozen=True):
    """Call the step's function."""

    step: StepContext


class Pause(Struct, frozen=True):
    """Wait before the next attempt."""

    seconds: float


class Record(Struct, frozen=True):
    """Hand a checkpoint to the group commit, without waiting for it."""

    row: Checkpoint


Effect = Settle | Attempt | Pause | Record
Flow = Generator[Effect, Any, Any]
Call = Callable[[StepContext], Any]
SETTLE = Settle()
UNTIL_STOPPED = Pause(math.inf)
"""Wait to be cancelled, as the first run was."""

_MOST_ATTEMPTS = 32_767  # what the column holds


def step_flow(
    execution: Execution,
    position: tuple[str, int],
    name: str,
    payload: Payload[Any],
    retry: Retry,
    *,
    kind: CheckpointKind = CheckpointKind.STEP,
    records_itself: bool = False,
) -> Flow:
    """The recorded outcome if there is one; otherwise attempts until success or giving up, recorded.

    `records_itself`: an attempt records its success, in its own commit; only a failure is left to do.
    """
    row = execution.recorded(position, kind, name)
    if row is not None:
        if was_stopped(row):
            yield UNTIL_STOPPED
        return outcome_of(row, payload)
    try:
        yield SETTLE
        flow = _attempts(execution, position, name, payload, retry, kind=kind, own=records_itself)
        return (yield from flow)
    except asyncio.CancelledError:
        if stops_itself(execution):
            yield Record(row_at(position, kind, name, 1, time.monotonic(), error=STOPPED.encode()))
        raise


def _attempts(
    execution: Execution,
    position: tuple[str, int],
    name: str,
    payload: Payload[Any],
    retry: Retry,
    *,
    kind: CheckpointKind,
    own: bool,
) -> Flow:
    began = time.monotonic()
    attempt = 1
    while True:
        failure: Exception
        try:
            value = yield Attempt(StepContext(execution.id, *position, name, attempt))
            if own:
                return value
            body, value = payload.round_trip(value, execution.max_payload)
        except PayloadError as error:
            # Another attempt would return the same kind of value: the step fails, and only it.
            failure = error
        except Exception as error:  # noqa: BLE001
            delay, failure = _after(retry, attempt, error)
            if delay is not None:
                yield Pause(delay)
                attempt += 1
                continue
        else:
            yield Record(row_at(position, kind, name, attempt, began, output=body))
            return value
        row = row_at(position, kind, name, attempt, began, error=Failure.of(failure).encode())
        yield Record(row)
        return outcome_of(row, payload)


def _after(retry: Retry, attempt: int, error: Exception) -> tuple[float | None, Exception]:
    """Seconds until the next attempt, or None to give up, and the error that stands then."""
    try:
        return retry.delay_after(attempt, error, random.random()), error  # noqa: S311
    except Exception as fault:  # noqa: BLE001
        # `retry_if` is the user's code: what it raises is the step's outcome, and is recorded as one.
        return None, fault


def outcome_of(row: Checkpoint, payload: Payload[Any]) -> Any:
    """The value a checkpoint holds. Raises StepError if it holds an error."""
    if row.error is not None:
        failure = Failure.decode(row.error)
        kind = StepInterruptedError if failure.type == INTERRUPTED else StepError
        raise kind(row.name, row.attempts, failure)
    assert row.output is not None
    return payload.decode(row.output)


async def perform(flow: Flow, execution: Execution, call: Call) -> Any:
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


async def _attempt(execution: Execution, step: StepContext, call: Call) -> Any:
    branch_token = current_branch.set(None)
    step_token = current_step.set(step)
    execution.steps_running += 1
    try:
        return await call(step)
    except Exception:
        if execution.signal is not None:
            # What a step that was stopped raises on its way out is not its outcome.
            raise execution.signal from None
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if stops_itself(execution) and task is not None and not task.cancelling():
            raise RuntimeError("the step raised CancelledError; nobody had cancelled it") from error
        raise
    finally:
        execution.steps_running -= 1
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


def perform_in_thread(flow: Flow, execution: Execution, call: Call) -> Any:
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


def _in_thread(effect: Effect, execution: Execution, call: Call, running: Running) -> Any:
    match effect:
        case Settle():
            _settle_in_thread(execution)
        case Attempt(step):
            running.begin()
            return _attempt_in_thread(step, call)
        case Pause(seconds):
            running.end()
            on_loop(execution, _pause(execution, seconds))
        case Record(row):
            on_loop(execution, record_there(execution, row))
    return None


def _settle_in_thread(execution: Execution) -> None:
    pending = execution.pending
    if (pending is not None and pending.at is None) or execution.recorder.leaving:
        on_loop(execution, execution.settle())
    execution.check()


def _attempt_in_thread(step: StepContext, call: Call) -> Any:
    branch_token = current_branch.set(None)
    step_token = current_step.set(step)
    try:
        return call(step)
    finally:
        current_step.reset(step_token)
        current_branch.reset(branch_token)


def row_at(
    position: tuple[str, int],
    kind: CheckpointKind,
    name: str,
    attempts: int,
    began: float,
    *,
    output: bytes | None = None,
    error: bytes | None = None,
) -> Checkpoint:
    """The checkpoint of an outcome."""
    return Checkpoint(
        branch=position[0],
        seq=position[1],
        kind=kind,
        name=name,
        attempts=min(attempts, _MOST_ATTEMPTS),
        codec=JSON,
        output=output,
        error=error,
        seconds=time.monotonic() - began,
    )
