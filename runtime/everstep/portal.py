"""From a thread to the event loop that does the waiting: a plain workflow to its worker's, a client to its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from everstep.branches import outside_workflow
from everstep.context import Execution
from everstep.store.models import Checkpoint

T = TypeVar("T")

_counting = threading.Lock()


def begin_on(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]
) -> concurrent.futures.Future[T]:
    """Begin a coroutine on a loop; its task is the engine's, not a branch of a workflow."""
    return cast(
        concurrent.futures.Future[T],
        outside_workflow(lambda: asyncio.run_coroutine_threadsafe(coroutine, loop)),
    )


def outcome_of(future: concurrent.futures.Future[T]) -> T:
    """Wait in this thread for what was begun."""
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


def wait_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait in this thread for a coroutine on a loop."""
    return outcome_of(begin_on(loop, coroutine))


def on_loop(execution: Execution, coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait in a plain workflow's thread for a coroutine on its worker's loop. A signal for the workflow ends it."""
    try:
        return wait_on(execution.loop, _tracked(execution, coroutine))
    except concurrent.futures.CancelledError:
        execution.check()
        raise


async def _tracked(execution: Execution, coroutine: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    execution.tasks.add(task)
    try:
        return await coroutine
    finally:
        execution.tasks.discard(task)


async def record_there(execution: Execution, row: Checkpoint) -> None:
    """Record a checkpoint, on the event loop."""
    execution.record(row)


def count(execution: Execution, *, steps: int = 0, threads: int = 0) -> None:
    """Count what a plain workflow's threads do at the same time; += alone would lose some."""
    with _counting:
        execution.steps_running += steps
        execution.threads += threads


class Running:
    """A step in a plain workflow's thread, counted until it is recorded, which the loop does after it has ended.

    A worker that drains waits for what is counted: else it could leave between the two, and the step ran again.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._counted = False

    def begin(self) -> None:
        if not self._counted:
            self._counted = True
            count(self._execution, steps=1)

    def end(self) -> None:
        if self._counted:
            self._counted = False
            count(self._execution, steps=-1)
