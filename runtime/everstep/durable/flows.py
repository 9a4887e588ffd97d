"""Replay or record: the rule every step follows, once, for coroutines and for plain functions.

`step_flow` is a generator that decides and never waits; it yields what it needs done (performing.py does it).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Generator
from typing import Any

from msgspec import Struct

from everstep.codec import JSON, Payload
from everstep.context import Execution, StepContext
from everstep.durable.stopping import STOPPED, stops_itself, was_stopped
from everstep.errors import (
    INTERRUPTED,
    Failure,
    PayloadError,
    StepError,
    StepInterruptedError,
)
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
        # `retry_if` is the user's code: what it raises is the step's outcome, and is recorded as one, with the
        # error that it was asked about as its cause.
        if fault is not error:
            fault.__cause__ = fault.__cause__ or error
        return None, fault


def outcome_of(row: Checkpoint, payload: Payload[Any]) -> Any:
    """The value a checkpoint holds. Raises StepError if it holds an error."""
    if row.error is not None:
        failure = Failure.decode(row.error)
        kind = StepInterruptedError if failure.type == INTERRUPTED else StepError
        raise kind(row.name, row.attempts, failure)
    assert row.output is not None
    return payload.decode(row.output)


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
