"""A started workflow: its id, its result, its state, and how to stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from everstep.branch import Branch, current_branch
from everstep.codec import Payload
from everstep.durations import patience_of
from everstep.errors import (
    DEADLINE_EXCEEDED,
    Failure,
    RecordedError,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
    WorkflowDeadError,
    WorkflowError,
    WorkflowTimeoutError,
    workflow_called,
)
from everstep.store.infos import StepInfo, WorkflowInfo
from everstep.store.models import Ending, Outcome

if TYPE_CHECKING:
    from everstep.client.asynchronous import Client

R = TypeVar("R")

_MOMENT_SECONDS = 0.02


class Handle(Generic[R]):
    """A workflow that was started, here or elsewhere. `created`: this call started it."""

    def __init__(
        self, client: Client, workflow_id: str, payload: Payload[R], *, created: bool
    ) -> None:
        self.id = workflow_id
        self.created = created
        self._made = time.monotonic()
        self._client = client
        self.payload = payload

    async def result(self, timeout: timedelta | float | None = None) -> R:  # noqa: ASYNC109
        """The workflow's result, waiting for it at most `timeout` (seconds or timedelta).

        Raises WorkflowError, WorkflowCancelledError or WorkflowDeadError as it ended, TimeoutError, and
        UnknownWorkflowError. In a workflow it waits parked, what came is recorded, and there is no `timeout`.
        """
        branch = current_branch.get()
        if branch is not None:
            if timeout is not None:
                raise UsageError(
                    "result(timeout=…) does not work inside a workflow: use everstep.wait_for"
                )
            return await self.result_in(branch)
        seconds = patience_of(timeout)
        try:
            async with asyncio.timeout(seconds):
                outcome = await self._outcome()
        except TimeoutError:
            raise TimeoutError(
                f"workflow {self.id!r} has not finished within {seconds:g} s; it goes on, and "
                f"`everstep workflow get {self.id}` shows where it stands"
            ) from None
        return cast(R, value_of(self._client.encoding.outcome(outcome), self.payload))

    def result_in(self, branch: Branch) -> Coroutine[object, None, R]:
        """Inside a workflow: waited for parked, and recorded at the position taken now."""
        from everstep.durable.children import result_in_workflow  # noqa: PLC0415

        position = branch.next_position()
        return result_in_workflow(branch.execution, position, self.id, self.payload)

    async def _outcome(self) -> Outcome:
        # What this call started is known to exist, and has not finished in the very next moment.
        client = self._client
        if not self.created:
            await client.check_known(self.id)
        just_now = self.created and time.monotonic() - self._made < _MOMENT_SECONDS
        return await client.outcomes.wait(self.id, look_now=not just_now)

    async def info(self) -> WorkflowInfo:
        """Where the workflow stands. Raises UnknownWorkflowError if it does not exist."""
        info = await self._client.get(self.id)
        if info is None:
            raise UnknownWorkflowError(f"there is no workflow with id {self.id!r}")
        return info

    async def steps(self) -> Sequence[StepInfo]:
        """Its recorded steps, in order. Raises UnknownWorkflowError if it does not exist."""
        return await self._client.steps(self.id)

    async def cancel(self) -> bool:
        """Ask it to stop. Returns False if it had finished already."""
        return await self._client.cancel(self.id)

    def __repr__(self) -> str:
        return f"<handle of workflow {self.id}>"


def value_of(outcome: Outcome, payload: Payload[Any]) -> Any:
    """A finished workflow's result, or its error raised."""
    if outcome.status is Ending.SUCCEEDED:
        assert outcome.output is not None
        return payload.decode(outcome.output)
    raise error_of(outcome)


def error_of(outcome: Outcome) -> RecordedError | WorkflowCancelledError:
    """The error a finished workflow ended with."""
    failure = Failure.decode(outcome.error or b'{"type":"","message":""}')
    match outcome.status:
        case Ending.CANCELLED:
            return _cancelled(outcome, late=failure.type == DEADLINE_EXCEEDED.type)
        case Ending.DEAD_LETTER:
            return WorkflowDeadError(outcome.id, outcome.name, failure)
        case Ending.FAILED | Ending.SUCCEEDED:
            return WorkflowError(outcome.id, outcome.name, failure)


def _cancelled(outcome: Outcome, *, late: bool) -> WorkflowCancelledError:
    called = workflow_called(outcome.id, outcome.name)
    error = (
        WorkflowTimeoutError(f"{called} did not finish before its deadline")
        if late
        else WorkflowCancelledError(f"{called} was cancelled")
    )
    error.workflow_id = outcome.id
    return error
