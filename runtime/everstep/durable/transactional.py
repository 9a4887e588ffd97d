"""Transactional steps: functions that are given a connection, whose SQL and the record of its outcome commit together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast, get_origin

from everstep.branch import Branch, current_branch
from everstep.codec import Payload, hints_of, result_payload
from everstep.context import StepContext
from everstep.database import Database
from everstep.durable.flows import Flow, step_flow
from everstep.durable.marked import elsewhere_flow
from everstep.durable.performing import perform, perform_in_thread
from everstep.errors import UsageError
from everstep.retry import Retry, checked_retry
from everstep.store.models import CheckpointKind
from everstep.store.places import Isolation, Mark, Place
from everstep.store.sessions import Form
from everstep.texts import chosen_name

P = ParamSpec("P")
R = TypeVar("R")


class _Transaction(Generic[P, R]):
    """What transactions of both colours share. `P` are the parameters without the connection."""

    is_async: bool

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        retry: Retry | None,
        isolation: Isolation,
        database: Database | None,
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name
        self.retry = checked_retry(retry, f"transaction {name}")
        if isolation not in set(Isolation):
            levels = ", ".join(f"Isolation.{level.name}" for level in Isolation)
            raise UsageError(
                f"transaction {name}: isolation= is one of {levels}, not {isolation!r}"
            )
        self.isolation = Isolation(isolation)
        self.database = database
        if not inspect.signature(function).parameters:
            raise UsageError(f"transaction {name} takes the connection as its first parameter")

    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        isolation: Isolation | None = None,
    ) -> Self:
        """The same transaction with other options, for one call: `await book.options(retry=…)(order)`."""
        return type(self)(
            self.function,
            name=self.name if name is None else chosen_name(name, "transaction"),
            retry=retry or self.retry,
            isolation=isolation or self.isolation,
            database=self.database,
        )

    @functools.cached_property
    def result(self) -> Payload[R]:
        return result_payload(self.function, f"result of transaction {self.name}")

    @functools.cached_property
    def form(self) -> Form:
        """What the first parameter asks for. Raises UsageError if that is nothing this colour can be given."""
        first = next(iter(inspect.signature(self.function).parameters))
        hint = hints_of(self.function, f"transaction {self.name}").get(first)
        kind = get_origin(hint) or hint
        bases = kind.__mro__ if isinstance(kind, type) else ()
        if not any(base.__module__.startswith("sqlalchemy.") for base in bases):
            return None
        # Here, because only now it is known that the app has SQLAlchemy.
        from everstep.store.alchemy import checked_form  # noqa: PLC0415

        return checked_form(cast(Any, kind), self.name, is_async=self.is_async)

    def _flow(self, branch: Branch, mark: Mark) -> Flow:
        execution, payload, retry = branch.execution, self.result, self.retry
        if self.database is not None:
            at, position = branch.next_position(), branch.next_position()
            return elsewhere_flow(
                execution, at, position, self.name, payload, retry=retry, mark=mark
            )
        kind, position = CheckpointKind.TRANSACTION, branch.next_position()
        return step_flow(
            execution, position, self.name, payload, retry, kind=kind, records_itself=True
        )

    def _place(self, branch: Branch, step: StepContext, mark: Mark) -> Place:
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
            check=branch.execution.check,
            form=self.form,
            database="" if self.database is None else self.database.name,
            mark=mark,
            encoding=branch.execution.encoding,
        )

    def _here(self) -> Branch:
        branch = current_branch.get()
        if branch is None:
            raise UsageError(
                f"transaction {self.name} is called by a workflow of its own colour, directly: not in a step, nor "
                f"through run(). In a test, call {self.name}.function with a connection of your own"
            )
        if branch.execution.plain is self.is_async:
            colour = "async" if self.is_async else "a plain function"
            raise UsageError(f"transaction {self.name} is {colour}, and the workflow is not")
        return branch

    def __repr__(self) -> str:
        return f"<transaction {self.name}>"


class Transaction(_Transaction[P, R]):
    """A transactional step written as `async def`."""

    is_async = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        branch, mark = self._here(), Mark()

        def attempt(step: StepContext) -> Coroutine[object, None, Any]:
            return branch.execution.recorder.transactor.run(
                self._place(branch, step, mark), lambda tx: self.function(tx, *args, **kwargs)
            )

        return perform(self._flow(branch, mark), branch.execution, attempt)


class PlainTransaction(_Transaction[P, R]):
    """A transactional step written as `def`, for plain workflows."""

    is_async = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        branch, mark = self._here(), Mark()

        def attempt(step: StepContext) -> Any:
            return branch.execution.recorder.transactor.run_plain(
                self._place(branch, step, mark), lambda tx: self.function(tx, *args, **kwargs)
            )

        return cast(R, perform_in_thread(self._flow(branch, mark), branch.execution, attempt))
