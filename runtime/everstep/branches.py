"""Tasks that a workflow makes become its branches, and tasks that the engine makes do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from everstep.branch import Branch, current_branch
from everstep.cancelling import BranchTask
from everstep.replayed import as_in_its_log

_ACLOSE = "async_generator_athrow"
"""What the event loop makes a task of, itself in no task, when an async generator is dropped before its end."""


def numbering_task_factory(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any],
    *,
    context: Context | None = None,
    **options: Any,
) -> asyncio.Task[Any]:
    """The worker loop's task factory: a task made by a workflow becomes a branch."""
    branch = current_branch.get()
    if branch is None:
        return asyncio.Task(coro, loop=loop, context=context, **options)
    left_early = type(coro).__name__ == _ACLOSE and asyncio.current_task(loop) is None
    try:
        own = branch.closing() if left_early else branch.child()
    except asyncio.CancelledError:
        coro.close()
        raise
    return _task_of(own, loop, coro, context if context is not None else copy_context(), options)


def _task_of(
    branch: Branch,
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any],
    context: Context,
    options: dict[str, Any],
) -> BranchTask:
    context.run(current_branch.set, branch)
    own = coro if branch.live else as_in_its_log(coro, branch)
    task = BranchTask(own, loop=loop, context=context, **options)
    if own is not coro:
        # Cancelled before it began, it has not come to what it was to await.
        task.add_done_callback(lambda _: coro.close())
    task.belong(branch)
    tasks = branch.execution.tasks
    tasks.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    assert isinstance(task, BranchTask)
    assert task.branch is not None
    execution = task.branch.execution
    execution.tasks.discard(task)
    task.end()
    if (execution.signal is not None or execution.abandoned) and not task.cancelled():
        task.exception()  # that the workflow left its tasks is nothing to warn of


def outside_workflow(function: Callable[[], Any]) -> Any:
    """Call the engine's own code so that tasks it makes are nobody's branch."""
    token = current_branch.set(None)
    try:
        return function()
    finally:
        current_branch.reset(token)
