"""What the workflow itself stops: a step or a wait that a time limit, a task group or `task.cancel()` gave up.

It is recorded as stopped. A replay neither runs it again nor finds it successful this time: it waits there to be
stopped as it was before. (When the workflow as a whole is stopped, nothing is recorded.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from everstep.branch import current_branch
from everstep.codec import JSON
from everstep.context import Execution
from everstep.errors import Failure
from everstep.store.models import Checkpoint, CheckpointKind

T = TypeVar("T")

STOPPED = Failure("everstep.Stopped", "its own workflow cancelled it: a time limit, or a task")


def was_stopped(row: Checkpoint | None) -> bool:
    """Whether a checkpoint says that the workflow gave up waiting for it."""
    return (
        row is not None and row.error is not None and Failure.decode(row.error).type == STOPPED.type
    )


def stops_itself(execution: Execution) -> bool:
    """Whether a cancellation that has just come is the workflow's own doing."""
    return execution.signal is None and not execution.over


async def be_stopped(execution: Execution) -> NoReturn:
    """Wait for the cancellation that came here in the first run."""
    execution.check()
    branch = current_branch.get()
    try:
        if branch is not None and branch.task is not None:
            branch.stopping = True
            branch.task.wait_to_be_stopped()
        await asyncio.get_running_loop().create_future()
    finally:
        if branch is not None:
            branch.stopping = False
    raise AssertionError("unreachable")


async def stoppable(
    execution: Execution,
    place: tuple[tuple[str, int], CheckpointKind, str],
    wait: Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """A wait whose outcome is recorded at a place: position, kind and name.

    `wait` makes its coroutine when it begins: Python would warn of one that nobody awaited.
    """
    position, kind, name = place
    try:
        if was_stopped(execution.recorded(position, kind, name)):
            await be_stopped(execution)
        return await wait()
    except asyncio.CancelledError:
        branch = current_branch.get()
        gave_back = branch is not None and branch.gave_back(position)
        if stops_itself(execution) and position not in execution.log and not gave_back:
            error = STOPPED.encode()
            execution.record(Checkpoint(*position, kind, name, 1, JSON, None, error))
        raise
