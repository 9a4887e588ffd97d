"""What a workflow may call besides its steps, and gets the same answer to on every replay."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from everstep.children import result_in_workflow, start_child
from everstep.codec import Payload
from everstep.context import Branch, Execution, branch_here
from everstep.definitions import PlainStep, Workflow, as_step
from everstep.errors import UsageError
from everstep.store.models import CheckpointKind
from everstep.talking import deadline_of, seconds_of
from everstep.waiting import wait_until

P = ParamSpec("P")
R = TypeVar("R")


def sleep(duration: timedelta | float) -> Coroutine[Any, Any, None]:
    """Wait, durably. Anything longer than a moment parks: the workflow leaves the worker and costs a row.

    `duration` in seconds or as a timedelta, counted from when the database first recorded the sleep: a
    crash does not begin it anew. Never early; late by up to about a second, when it had to be claimed again.
    """
    branch = branch_here("everstep.sleep()")
    if branch.execution.plain:
        raise UsageError(
            "this workflow is a plain function, and nobody awaits everstep.sleep() in it. "
            "Call everstep.sync.sleep(…)"
        )
    return begin_sleep(branch, duration)


def begin_sleep(branch: Branch, duration: timedelta | float) -> Coroutine[Any, Any, None]:
    """Take the position of a sleep now; the coroutine sleeps, on the worker's event loop."""
    seconds = seconds_of(duration, "a sleep")
    return _sleep(branch, branch.next_position(), seconds)


async def _sleep(branch: Branch, position: tuple[str, int], seconds: float) -> None:
    execution = branch.execution
    when = await deadline_of(execution, position, CheckpointKind.SLEEP, "sleep", seconds)
    await wait_until(execution, position, when, "sleep")


def start(
    workflow: Workflow[P, R], *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, ChildHandle[R]]:
    """Start a child in the background, from inside a workflow; its id follows from where it was started."""
    branch = branch_here("everstep.start()")
    return _start(branch, workflow, start_child(branch, workflow, args, kwargs, {}))


async def _start(
    branch: Branch, workflow: Workflow[P, R], started: Coroutine[Any, Any, str]
) -> ChildHandle[R]:
    return ChildHandle(branch.execution, await started, workflow.result)


class ChildHandle(Generic[R]):
    """A child that was started in the background."""

    def __init__(self, execution: Execution, workflow_id: str, payload: Payload[R]) -> None:
        self.id = workflow_id
        self._execution = execution
        self._payload = payload

    def result(self) -> Coroutine[Any, Any, R]:
        """Its result, waited for parked. Raises WorkflowError and the like, as it ended."""
        position = branch_here("result()").next_position()
        return result_in_workflow(self._execution, position, self.id, self._payload)


@overload
def run(
    step: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, R]: ...
@overload
def run(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
def run(step: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
    """Call a step of either colour from an async workflow; a plain function runs in a thread.

    Any function will do: one that is not decorated is recorded under its qualified name.
    """
    chosen = as_step(step)
    if isinstance(chosen, PlainStep):
        return chosen.in_thread(*args, **kwargs)
    return chosen(*args, **kwargs)
