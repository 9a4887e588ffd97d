"""Messages and events: what workflows say to each other, each recorded where it was said or heard."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

import msgspec

from everstep.branch import Branch, asleep, current_branch
from everstep.codec import JSON, Payload, encode_plain
from everstep.context import Execution, awaiting_branch
from everstep.durable.stopping import stoppable
from everstep.durable.waiting import wait_for
from everstep.durations import seconds_of
from everstep.errors import Failure, UnknownWorkflowError
from everstep.store.models import Checkpoint, CheckpointKind, Seen
from everstep.texts import checked

T = TypeVar("T")
Position = tuple[str, int]


def plain_row(
    position: Position,
    kind: CheckpointKind,
    name: str,
    *,
    output: bytes | None = None,
    error: bytes | None = None,
    target: str | None = None,
    message: int | None = None,
) -> Checkpoint:
    """A checkpoint of something that is not a step: one attempt, no duration."""
    return Checkpoint(*position, kind, name, 1, JSON, output, error, target=target, message=message)


async def deadline_of(
    execution: Execution, position: Position, kind: CheckpointKind, name: str, seconds: float
) -> datetime:
    """The instant `seconds` after the database first recorded this timer; the same on every replay."""
    row = execution.recorded(position, kind, name)
    branch = current_branch.get()
    if row is not None and row.recorded_at is not None and row.output is not None:
        if branch is not None and branch.task is not None:
            await branch.task.oversleep()
        return row.recorded_at + timedelta(seconds=msgspec.json.decode(row.output)["seconds"])
    body = msgspec.json.encode({"seconds": seconds})
    with execution.engagement(), asleep(branch):
        recorded_at = await execution.record(plain_row(position, kind, name, output=body)).wait()
    execution.check()
    return recorded_at + timedelta(seconds=seconds)


@overload
def recv(
    topic: str = "", *, timeout: timedelta | float | None = None
) -> Coroutine[object, None, Any]: ...
@overload
def recv(
    topic: str = "", *, timeout: timedelta | float | None = None, as_type: type[T]
) -> Coroutine[object, None, T]: ...
def recv(
    topic: str = "", *, timeout: timedelta | float | None = None, as_type: Any = Any
) -> Coroutine[object, None, Any]:
    """The next message of a topic, in the order they were sent; each is received once.

    Waits parked. Raises TimeoutError after `timeout` (seconds or timedelta), counted from when the wait was
    first recorded. `as_type` rebuilds the message as a dataclass, pydantic model, …
    """
    branch = awaiting_branch("everstep.recv()")
    checked(topic, "a topic")
    payload: Payload[Any] = Payload(as_type, f"message of topic {topic!r}")
    timer = None if timeout is None else (branch.next_position(), seconds_of(timeout, "a timeout"))
    position = branch.next_position()

    def wait() -> Coroutine[object, None, Any]:
        return _recv(branch, position, topic, timer, payload)

    return stoppable(branch.execution, (position, CheckpointKind.RECEIVE, topic), wait)


async def _recv(
    branch: Branch,
    position: Position,
    topic: str,
    timer: tuple[Position, float] | None,
    payload: Payload[Any],
) -> Any:
    execution = branch.execution
    until = timer and await deadline_of(execution, timer[0], CheckpointKind.TIMER, topic, timer[1])
    row = execution.recorded(position, CheckpointKind.RECEIVE, topic)
    if row is None:

        async def look() -> tuple[int, Seen | None]:
            seen = await execution.recorder.eyes.message(execution, topic)
            # Another branch may have taken it since the question was asked.
            there = seen.n is not None and seen.n not in execution.taken
            return seen.signals, seen if there else None

        seen = await wait_for(execution, position, look, until, [f"message:{topic}"])
        if seen is None or seen.n is None:
            error = Failure("TimeoutError", f"no message of topic {topic!r} came in time")
            row = plain_row(position, CheckpointKind.RECEIVE, topic, error=error.encode())
        else:
            execution.taken.add(seen.n)
            row = plain_row(
                position, CheckpointKind.RECEIVE, topic, output=seen.body, message=seen.n
            )
        execution.record(row)
    if row.error is not None:
        raise TimeoutError(Failure.decode(row.error).message)
    assert row.output is not None
    return payload.decode(row.output)


def send(workflow_id: str, message: Any, topic: str = "") -> Coroutine[object, None, None]:
    """Send a message to another workflow, exactly once. To one that has finished it is dropped.

    Raises UnknownWorkflowError if there is no such workflow.
    """
    branch = awaiting_branch("everstep.send()")
    checked(topic, "a topic")
    checked(workflow_id, "a workflow id")
    body = encode_plain(message, f"message of topic {topic!r}", branch.execution.max_payload)
    return _send(branch, branch.next_position(), workflow_id, topic, body)


async def _send(
    branch: Branch, position: Position, workflow_id: str, topic: str, body: bytes
) -> None:
    execution = branch.execution
    if execution.recorded(position, CheckpointKind.SEND, topic) is not None:
        return
    await execution.begin_anew()
    with execution.engagement():
        seen = await execution.recorder.eyes.exists(execution, workflow_id)
    if not seen.known:
        raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r} to send to")
    execution.check()
    execution.record(
        plain_row(position, CheckpointKind.SEND, topic, output=body, target=workflow_id)
    )


def set_event(key: str, value: Any) -> Coroutine[object, None, None]:
    """Publish a value under a name. The latest wins; it can be read during the workflow and ever after."""
    branch = awaiting_branch("everstep.set_event()")
    checked(key, "an event's key")
    body = encode_plain(value, f"event {key!r}", branch.execution.max_payload)
    return _set_event(branch, branch.next_position(), key, body)


async def _set_event(branch: Branch, position: Position, key: str, body: bytes) -> None:
    execution = branch.execution
    if execution.recorded(position, CheckpointKind.PUBLISH, key) is None:
        await execution.begin_anew()
        execution.record(plain_row(position, CheckpointKind.PUBLISH, key, output=body))


def write_stream(key: str, value: Any) -> Coroutine[object, None, None]:
    """Append a value to a stream of this workflow, exactly once; readers see it as soon as it is durable."""
    branch = awaiting_branch("everstep.write_stream()")
    checked(key, "a stream's key")
    body = encode_plain(value, f"stream {key!r}", branch.execution.max_payload)
    return _write(branch, branch.next_position(), key, body, last=False)


def close_stream(key: str) -> Coroutine[object, None, None]:
    """End a stream; without this it ends with its workflow. No reader comes to what is written to it afterwards."""
    branch = awaiting_branch("everstep.close_stream()")
    checked(key, "a stream's key")
    return _write(branch, branch.next_position(), key, b"null", last=True)


async def _write(branch: Branch, position: Position, key: str, body: bytes, *, last: bool) -> None:
    execution = branch.execution
    if execution.recorded(position, CheckpointKind.STREAM, key) is None:
        await execution.begin_anew()
        end = "end" if last else None
        execution.record(plain_row(position, CheckpointKind.STREAM, key, output=body, target=end))


def get_event(
    workflow_id: str, key: str, *, timeout: timedelta | float | None = None
) -> Coroutine[object, None, Any]:
    """The value another workflow publishes under a name, waiting for it if need be.

    Raises TimeoutError after `timeout`, or once the workflow has finished without publishing it, and
    UnknownWorkflowError. What was read is recorded: a replay sees the same value.
    """
    branch = awaiting_branch("everstep.get_event()")
    checked(key, "an event's key")
    checked(workflow_id, "a workflow id")
    timer = None if timeout is None else (branch.next_position(), seconds_of(timeout, "a timeout"))
    position = branch.next_position()

    def wait() -> Coroutine[object, None, Any]:
        return _get_event(branch, position, workflow_id, key, timer)

    return stoppable(branch.execution, (position, CheckpointKind.EVENT, key), wait)


def event_key(workflow_id: str, key: str) -> str:
    """What a wait for an event is called in wait_key: the second colon ends the id."""
    return f"event:{workflow_id.replace('%', '%25').replace(':', '%3A')}:{key}"


async def _get_event(
    branch: Branch,
    position: Position,
    workflow_id: str,
    key: str,
    timer: tuple[Position, float] | None,
) -> Any:
    execution = branch.execution
    until = timer and await deadline_of(execution, timer[0], CheckpointKind.TIMER, key, timer[1])
    row = execution.recorded(position, CheckpointKind.EVENT, key)
    if row is None:

        async def look() -> tuple[int, Seen | None]:
            seen = await execution.recorder.eyes.event(execution, workflow_id, key)
            if not seen.known:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            return seen.signals, seen if seen.body is not None or seen.finished else None

        seen = await wait_for(execution, position, look, until, [event_key(workflow_id, key)])
        if seen is None or seen.body is None:
            why = "in time" if seen is None else "before it finished"
            failure = Failure("TimeoutError", f"{workflow_id!r} published no event {key!r} {why}")
            row = plain_row(position, CheckpointKind.EVENT, key, error=failure.encode())
        else:
            row = plain_row(position, CheckpointKind.EVENT, key, output=seen.body)
        execution.record(row)
    if row.error is not None:
        raise TimeoutError(Failure.decode(row.error).message)
    assert row.output is not None
    return msgspec.json.decode(row.output)
