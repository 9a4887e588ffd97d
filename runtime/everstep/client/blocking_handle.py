"""A started workflow, for programs without `await`: what sync.Client gives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from everstep.branch import current_branch
from everstep.client import handle as handles
from everstep.errors import UsageError
from everstep.portal import on_loop
from everstep.store.infos import StepInfo, WorkflowInfo

R = TypeVar("R")


class Handle(Generic[R]):
    """A workflow that was started, here or elsewhere. `created`: this call started it."""

    def __init__(
        self, wait: Callable[[Coroutine[Any, Any, Any]], Any], inner: handles.Handle[R]
    ) -> None:
        self.id = inner.id
        self.created = inner.created
        self.payload = inner.payload
        self._wait = wait
        self._inner = inner

    def result(self, timeout: timedelta | float | None = None) -> R:
        """The workflow's result, waiting for it at most `timeout` (seconds or timedelta).

        Raises WorkflowError, WorkflowCancelledError or WorkflowDeadError as it ended, TimeoutError, and
        UnknownWorkflowError. In a workflow it waits parked, what came is recorded, and there is no `timeout`.
        """
        branch = current_branch.get()
        if branch is None or not branch.execution.plain:
            outside: R = self._wait(self._inner.result(timeout))
            return outside
        if timeout is not None:
            raise UsageError("result(timeout=…) does not work inside a workflow: leave it away")
        found: R = on_loop(branch.execution, self._inner.result_in(branch))
        return found

    def info(self) -> WorkflowInfo:
        """Where the workflow stands. Raises UnknownWorkflowError if it does not exist."""
        info: WorkflowInfo = self._wait(self._inner.info())
        return info

    def steps(self) -> Sequence[StepInfo]:
        """Its recorded steps, in order. Raises UnknownWorkflowError if it does not exist."""
        steps: Sequence[StepInfo] = self._wait(self._inner.steps())
        return steps

    def cancel(self) -> bool:
        """Ask it to stop. Returns False if it had finished already."""
        told: bool = self._wait(self._inner.cancel())
        return told

    def __repr__(self) -> str:
        return f"<handle of workflow {self.id}>"
