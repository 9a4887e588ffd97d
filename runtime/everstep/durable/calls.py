"""What a workflow may call besides its steps, and gets the same answer to on every replay."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

import msgspec

from everstep.branch import Branch
from everstep.codec import Payload
from everstep.context import Execution, awaiting_branch
from everstep.definitions import PlainStep, Workflow, as_step
from everstep.durable.children import result_in_workflow, start_child
from everstep.durable.talking import deadline_of, plain_row
from everstep.durable.waiting import wait_until
from everstep.durations import seconds_of
from everstep.errors import UsageError
from everstep.store.models import CheckpointKind

P = ParamSpec("P")
R = TypeVar("R")


def sleep(duration: timedelta | float) -> Coroutine[object, None, None]:
    """Wait, durably. Anything longer than a moment parks: the workflow leaves the worker and costs a row.

    `duration` in seconds or as a timedelta, counted from when the database first recorded the sleep: a
    crash does not begin it anew. Never early; late by up to about a second, when it had to be claimed again.
    """
    branch = awaiting_branch("everstep.sleep()")
    seconds = seconds_of(duration, "a sleep")
    return _sleep(branch, branch.next_position(), seconds)


async def _sleep(branch: Branch, position: tuple[str, int], seconds: float) -> None:
    execution = branch.execution
    when = await deadline_of(execution, position, CheckpointKind.SLEEP, "sleep", seconds)
    await wait_until(execution, position, when, "sleep")


def sleep_until(instant: datetime) -> Coroutine[object, None, None]:
    """Wait, durably, until an instant by the database's clock; one that has passed is no wait.

    The instant is recorded: a replay waits for the same one, whatever the code computes then.
    """
    branch = awaiting_branch("everstep.sleep_until()")
    if not isinstance(instant, datetime) or instant.tzinfo is None:
        raise UsageError(
            f"everstep.sleep_until() takes a datetime with a time zone, not {instant!r}: "
            f"give it one, for example tzinfo=UTC"
        )
    return _sleep_until(branch, branch.next_position(), instant)


async def _sleep_until(branch: Branch, position: tuple[str, int], instant: datetime) -> None:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.SLEEP, "sleep_until")
    if row is None:
        execution.check()
        body = msgspec.json.encode({"until": instant})
        row = plain_row(position, CheckpointKind.SLEEP, "sleep_until", output=body)
        execution.record(row)
    assert row.output is not None
    await wait_until(
        execution, position, msgspec.json.decode(row.output, type=_Until).until, "sleep"
    )


def start(
    workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[object, None, ChildHandle[R]]:
    """Start a child in the background, from inside a workflow; its id follows from where it was started."""
    branch = awaiting_branch("everstep.start()")
    if not isinstance(workflow, Workflow):
        raise UsageError(
            f"everstep.start() takes a function decorated with @app.workflow, not {workflow!r}"
        )
    return _start(branch, workflow, start_child(branch, workflow, args, kwargs, {}))


async def _start(
    branch: Branch, workflow: Workflow[P, R], started: Coroutine[Any, Any, str]
) -> ChildHandle[R]:
    return ChildHandle(branch.execution, await started, workflow.result)


class _Until(msgspec.Struct):
    until: datetime


class ChildHandle(Generic[R]):
    """A child that was started in the background."""

    def __init__(self, execution: Execution, workflow_id: str, payload: Payload[R]) -> None:
        self.id = workflow_id
        self._execution = execution
        self._payload = payload

    def result(self) -> Coroutine[object, None, R]:
        """Its result, waited for parked. Raises WorkflowError and the like, as it ended."""
        position = awaiting_branch("result()").next_position()
        return result_in_workflow(self._execution, position, self.id, self._payload)


@overload
def run(
    workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[object, None, R]: ...
@overload
def run(
    step: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[object, None, R]: ...
@overload
def run(
    step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[object, None, R]: ...
def run(step: Any, /, *args: Any, **kwargs: Any) -> Coroutine[object, None, Any]:
    """Call a step or a child workflow of either colour from an async workflow; a plain step runs in a thread.

    Any function will do: one that is not decorated is recorded under its qualified name.
    """
    if isinstance(step, Workflow):
        return step.call_in(awaiting_branch("everstep.run()"), args, kwargs)
    chosen = as_step(step)
    if isinstance(chosen, PlainStep):
        return chosen.in_thread(*args, **kwargs)
    return chosen(*args, **kwargs)
