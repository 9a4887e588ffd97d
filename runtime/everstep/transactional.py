"""Transactional steps: functions that are given a connection, whose SQL and checkpoint commit together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast

from everstep.codec import Payload, result_payload
from everstep.context import Branch, StepContext, current_branch
from everstep.errors import UsageError
from everstep.flows import perform, perform_in_thread, step_flow
from everstep.retry import NO_RETRY, Retry
from everstep.store.models import CheckpointKind
from everstep.store.transactions import Isolation, Place

P = ParamSpec("P")
R = TypeVar("R")


class _Transaction(Generic[P, R]):
    """What transactions of both colours share. `P` are the parameters without the connection."""

    def __init__(
        self, function: Callable[..., Any], *, name: str, retry: Retry | None, isolation: Isolation
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name
        self.retry = retry or NO_RETRY
        self.isolation = isolation
        if not inspect.signature(function).parameters:
            raise UsageError(f"transaction {name} takes the connection as its first parameter")

    @functools.cached_property
    def result(self) -> Payload[R]:
        return result_payload(self.function, f"result of transaction {self.name}")

    def _flow(self, branch: Branch) -> Any:
        return step_flow(
            branch.execution,
            branch.next_position(),
            self.name,
            self.result,
            self.retry,
            kind=CheckpointKind.TRANSACTION,
        )

    def _place(self, branch: Branch, step: StepContext) -> Place:
        return Place(
            workflow_id=step.workflow_id,
            epoch=branch.execution.epoch,
            branch=step.branch,
            seq=step.seq,
            name=self.name,
            attempt=step.attempt,
            payload=self.result,
            max_payload=branch.execution.max_payload,
            isolation=self.isolation,
        )

    def _here(self, *, plain: bool) -> Branch:
        branch = current_branch.get()
        if branch is None:
            raise UsageError(
                f"transaction {self.name} runs inside a workflow; in a test, call {self.name}.function "
                f"with a connection of your own"
            )
        if branch.execution.plain is not plain:
            colour = "a plain function" if plain else "async"
            raise UsageError(f"transaction {self.name} is {colour}, and the workflow is not")
        return branch

    def __repr__(self) -> str:
        return f"<transaction {self.name}>"


class Transaction(_Transaction[P, R]):
    """A transactional step written as `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        branch = self._here(plain=False)

        def attempt(step: StepContext) -> Coroutine[Any, Any, Any]:
            return branch.execution.recorder.transactor.run(
                self._place(branch, step), lambda tx: self.function(tx, *args, **kwargs)
            )

        return perform(self._flow(branch), branch.execution, attempt)


class PlainTransaction(_Transaction[P, R]):
    """A transactional step written as `def`, for plain workflows."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        branch = self._here(plain=True)

        def attempt(step: StepContext) -> Any:
            return branch.execution.recorder.transactor.run_plain(
                self._place(branch, step), lambda tx: self.function(tx, *args, **kwargs)
            )

        return cast(R, perform_in_thread(self._flow(branch), branch.execution, attempt))
