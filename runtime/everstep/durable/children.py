"""Children: workflows started by a workflow, and the results of workflows awaited in one."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from everstep.branch import Branch
from everstep.client.handle import value_of
from everstep.client.startable import StartOptions, make_start
from everstep.codec import Payload
from everstep.context import Execution
from everstep.durable.stopping import stoppable
from everstep.durable.talking import Position, plain_row
from everstep.durable.waiting import wait_for
from everstep.errors import DEADLINE_EXCEEDED, Failure, UnknownWorkflowError, UsageError
from everstep.store.models import Checkpoint, CheckpointKind, Ending, Outcome, Seen
from everstep.texts import checked

if TYPE_CHECKING:
    from everstep.definitions import Workflow

_NOT_OF_A_CHILD: dict[str, object] = {
    "debounce": None,
    "dedup": None,
    "on_duplicate": "reject",
    "on_existing": "return",
}


def start_child(
    branch: Branch,
    workflow: Workflow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: StartOptions,
) -> Coroutine[object, None, str]:
    """Start a child in the background: its rows and the parent's checkpoint are one statement. Gives its id."""
    execution = branch.execution
    if options:
        _check_options(options)
    body = workflow.arguments.encode(args, kwargs, execution.max_payload)
    return _start_child(execution, branch.next_position(), workflow, body, options)


def _check_options(options: StartOptions) -> None:
    """Raises UsageError for what is decided where a start meets others: a child's is a part of its parent's log."""
    if options.get("connection") is not None:
        raise UsageError(
            "a child is started with its parent's checkpoint, so it cannot be part of a transaction of "
            "connection=: leave that out, or call client.start(…, connection=…) in a step"
        )
    for option, default in _NOT_OF_A_CHILD.items():
        if options.get(option, default) != default:
            raise UsageError(
                f"{option}= is about a workflow that somebody else may have started, so it is no start of a "
                f"child: call client.start(…, {option}=…) in a step"
            )


async def _start_child(
    execution: Execution,
    position: Position,
    workflow: Workflow[Any, Any],
    body: bytes,
    options: StartOptions,
) -> str:
    row = execution.recorded(position, CheckpointKind.CHILD, workflow.name)
    if row is not None:
        assert row.output is not None
        return str(msgspec.json.decode(row.output)["id"])
    await execution.begin_anew()
    chosen: StartOptions = {**options, "id": options.get("id") or child_id(execution.id, position)}
    start = make_start(workflow.name, body, workflow.queue, chosen)
    if execution.deadline is not None:
        # Inherited as an instant: a child has no more time than its parent.
        earlier = min(start.deadline or execution.deadline, execution.deadline)
        start = msgspec.structs.replace(start, deadline=earlier)
    output = msgspec.json.encode({"id": start.id})
    row = plain_row(position, CheckpointKind.CHILD, workflow.name, output=output, target=start.id)
    execution.record(row, start if _first_of_its_name(execution, options) else None)
    return start.id


def _first_of_its_name(execution: Execution, options: StartOptions) -> bool:
    """Whether this run has not started a child of this id: two starts in one commit would be two runs."""
    chosen = options.get("id")
    if chosen is None:
        return True
    if execution.named is None:
        execution.named = set()
    first = chosen not in execution.named
    execution.named.add(chosen)
    return first


def child_id(parent: str, position: Position) -> str:
    """A child's id: its parent's, and the position it was started from."""
    branch, seq = position
    return f"{parent}/{branch}:{seq}" if branch else f"{parent}/{seq}"


async def call_child(
    branch: Branch,
    workflow: Workflow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    positions: tuple[Position, Position],
) -> Any:
    """Run a child and wait for its result: what `await child(x)` does."""
    execution = branch.execution
    body = workflow.arguments.encode(args, kwargs, execution.max_payload)
    started = await _start_child(execution, positions[0], workflow, body, {})
    return await result_in_workflow(execution, positions[1], started, workflow.result)


def result_in_workflow(
    execution: Execution, position: Position, workflow_id: str, payload: Payload[Any]
) -> Coroutine[object, None, Any]:
    """Another workflow's result, recorded where it was awaited. Raises its error, on every replay the same."""
    checked(workflow_id, "a workflow id")
    if workflow_id == execution.id:
        raise UsageError(
            f"workflow {workflow_id!r} waits for its own result, which would be for ever: "
            f"give the child an id of its own, or none"
        )

    def wait() -> Coroutine[object, None, Any]:
        return _result(execution, position, workflow_id, payload)

    return stoppable(execution, (position, CheckpointKind.RESULT, workflow_id), wait)


async def _result(
    execution: Execution, position: Position, workflow_id: str, payload: Payload[Any]
) -> Any:
    row = execution.recorded(position, CheckpointKind.RESULT, workflow_id)
    if row is None:
        # A child of this very workflow has to be there before it can be looked at.
        await execution.settle()

        async def look() -> tuple[int, Seen | None]:
            seen = await execution.recorder.eyes.outcome(execution, workflow_id)
            if not seen.known:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            return seen.signals, seen if seen.finished else None

        seen = await wait_for(execution, position, look, None, [f"workflow:{workflow_id}"])
        assert seen is not None
        assert seen.outcome is not None
        row = _result_row(position, seen.outcome)
        execution.record(row)
    return value_of(_outcome(row), payload)


def _result_row(position: Position, outcome: Outcome) -> Checkpoint:
    error = outcome.error
    if outcome.status is not Ending.SUCCEEDED and error is None:
        error = Failure("everstep.Cancelled", "the workflow was cancelled").encode()
    return plain_row(
        position, CheckpointKind.RESULT, outcome.id, output=outcome.output, error=error
    )


def _outcome(row: Checkpoint) -> Outcome:
    """The outcome a RESULT checkpoint stands for; how it ended is told by the failure's type."""
    if row.error is None:
        ending = Ending.SUCCEEDED
    else:
        endings = {
            "everstep.Cancelled": Ending.CANCELLED,
            DEADLINE_EXCEEDED.type: Ending.CANCELLED,
            "everstep.CrashLoop": Ending.DEAD_LETTER,
        }
        ending = endings.get(Failure.decode(row.error).type, Ending.FAILED)
    return Outcome(row.name, "", ending, row.codec, row.output, row.error)
