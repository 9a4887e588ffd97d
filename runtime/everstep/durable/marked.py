"""Steps that leave a mark before they begin: it is durable first, so that a replay knows of what was interrupted."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import msgspec

from everstep.codec import Payload
from everstep.context import Execution
from everstep.durable.flows import Flow, Record, outcome_of, row_at, step_flow
from everstep.errors import INTERRUPTED, Failure
from everstep.ids import new_id
from everstep.retry import NO_RETRY, Retry
from everstep.store.models import CheckpointKind
from everstep.store.places import Mark


def once_flow(
    execution: Execution,
    mark: tuple[str, int],
    position: tuple[str, int],
    name: str,
    payload: Payload[Any],
) -> Flow:
    """At most once: a mark is durable before the attempt, and a mark without an outcome is an interruption."""
    begun = execution.recorded(mark, CheckpointKind.STARTED, name)
    if begun is not None and execution.recorded(position, CheckpointKind.STEP, name) is None:
        interrupted = Failure(
            INTERRUPTED, "its worker died while it ran: it may have happened, or not"
        )
        row = row_at(
            position, CheckpointKind.STEP, name, 1, time.monotonic(), error=interrupted.encode()
        )
        yield Record(row)
        return outcome_of(row, payload)
    if begun is None:
        yield Record(
            row_at(mark, CheckpointKind.STARTED, name, 1, time.monotonic(), output=b"null")
        )
    return (yield from step_flow(execution, position, name, payload, NO_RETRY))


def elsewhere_flow(
    execution: Execution,
    at: tuple[str, int],
    position: tuple[str, int],
    name: str,
    payload: Payload[Any],
    *,
    retry: Retry,
    mark: Mark,
) -> Flow:
    """A transaction on another database: the key of its record there is durable before an attempt begins.

    A key that is there without an outcome is one whose transaction may have been committed.
    """
    row = execution.recorded(at, CheckpointKind.STARTED, name)
    mark.seen = row is not None
    if row is None:
        mark.key = UUID(new_id())
        told = msgspec.json.encode(mark.key)
        yield Record(row_at(at, CheckpointKind.STARTED, name, 1, time.monotonic(), output=told))
    else:
        assert row.output is not None
        mark.key = msgspec.json.decode(row.output, type=UUID)
    kind = CheckpointKind.TRANSACTION
    return (yield from step_flow(execution, position, name, payload, retry, kind=kind))
