"""Continue-as-new: a workflow without an end begins its log anew (docs/internals/generations.md).

The workflow stays the same row with the same id. Its next generation has new arguments and an empty log, and
runs on whatever version of the code is current when it is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from everstep.context import Execution, branch_here
from everstep.durable.talking import plain_row
from everstep.errors import Continued, UsageError
from everstep.store.models import Checkpoint, CheckpointKind


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run of the workflow function and begin it anew, under the same id, with these arguments.

    The log of what was done so far is not replayed any more. Messages that nobody has received, events, streams,
    handles and the deadline stay. Raises UsageError if the arguments do not fit the function, outside of the
    workflow function itself, or while tasks that it made still run; PayloadError if they cannot be recorded.
    """
    branch = branch_here("continue_as_new()")
    execution = branch.execution
    if branch.path != main_branch(execution.generation):
        raise UsageError(
            "continue_as_new() ends the workflow function, and this code runs in a task that it made. "
            "Return from the task, and let the function itself call it"
        )
    if running := _others_running(execution):
        raise UsageError(
            f"continue_as_new() with {running} of the workflow's tasks still running: the next generation would "
            f"know nothing of them. Wait for them first, or cancel them and wait"
        )
    assert execution.arguments is not None
    raise Continued(execution.arguments.encode(args, kwargs, execution.max_payload))


def _others_running(execution: Execution) -> int:
    if execution.plain:
        return execution.threads - 1
    return sum(not task.done() for task in execution.tasks)


def main_branch(generation: int) -> str:
    """The branch of the function itself; everstep.branches_from in SQL gives the same."""
    return f"~{generation}" if generation else ""


def generation_of(log: Iterable[Checkpoint]) -> tuple[int, Checkpoint | None]:
    """Which generation a log is of, and what holds its input, if that is not the one the workflow was started with."""
    for row in log:
        if row.kind == CheckpointKind.CONTINUE:
            return int(row.branch.removeprefix("~")), row
    return 0, None


def next_generation(execution: Execution, body: bytes) -> Checkpoint:
    """The first checkpoint of the next generation: its input."""
    position = main_branch(execution.generation + 1), 1
    return plain_row(position, CheckpointKind.CONTINUE, execution.name, output=body)


def continuation_in(error: BaseException) -> Continued | None:
    """The wish to continue, also where it came through a TaskGroup, which wraps what passes it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Continued) else None
