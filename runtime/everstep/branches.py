"""Tasks that a workflow makes become its branches, and tasks that the engine makes do not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context, copy_context
from typing import Any

from everstep.branch import Branch, current_branch
from everstep.cancelling import BranchTask
from everstep.replayed import as_in_its_log

_ACLOSE = "async_generator_athrow"
"""What the event loop makes a task of, itself in no task, when an async generator is dropped before its end."""

_TO_GATHER = 5
"""Calls between `gather` and what closes coroutines: `ensure_future`, `create_task` and the factory, and one to spare."""


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
        _close_from(coro)
        raise
    return _task_of(own, loop, coro, context if context is not None else copy_context(), options)


def _close_from(coro: Coroutine[Any, Any, Any]) -> None:
    """No task is made of it, nor, in `gather`, of those behind it: Python would warn of them when they are dropped."""
    coro.close()
    frame = inspect.currentframe()
    for _ in range(_TO_GATHER):
        frame = None if frame is None else frame.f_back
        if frame is not None and frame.f_code is asyncio.gather.__code__:
            given = frame.f_locals["coros_or_futures"]
            number = next((n for n, one in enumerate(given) if one is coro), len(given))
            close_unbegun(given[number + 1 :], but=given[:number])
            return


def close_unbegun(given: Iterable[Awaitable[Any]], *, but: Sequence[Awaitable[Any]] = ()) -> None:
    """Close the coroutines of which no task will be made; `but` have one."""
    for one in given:
        if inspect.iscoroutine(one) and not any(one is other for other in but):
            one.close()


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
