"""The part of an App that registers what workflows call: steps, and transactions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from everstep.database import Database
from everstep.decorators import AsyncAlchemy, PlainAlchemy, StepDecorator, TransactionDecorator
from everstep.definitions import PlainStep, Step
from everstep.durable.transactional import PlainTransaction, Transaction
from everstep.errors import UsageError
from everstep.retry import Retry
from everstep.store.places import Isolation
from everstep.store.sessions import AsyncTx, Tx
from everstep.texts import chosen_name

P = ParamSpec("P")
R = TypeVar("R")


class Steps:
    """Steps by name, and the databases of their transactions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.databases: dict[str, Database] = {}
        self._steps: dict[str, Any] = {}

    @overload
    def step(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def step(self, function: Callable[P, R], /) -> PlainStep[P, R]: ...
    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        at_most_once: bool = False,
    ) -> StepDecorator: ...
    def step(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        at_most_once: bool = False,
    ) -> Any:
        """Register a step. Without `retry` it is tried once; `timeout` limits each attempt of an async step.

        `at_most_once`: a mark is made durable before the step begins, and if its worker dies in the middle it is
        not run again: StepInterruptedError is raised instead.
        """

        def register(function: Callable[..., Any]) -> Any:
            check_function(function, "step")
            chosen = chosen_name(name or function.__qualname__, "step")
            self._check_step(chosen, function)
            kind = Step if inspect.iscoroutinefunction(function) else PlainStep
            self._steps[chosen] = kind(
                function, name=chosen, retry=retry, timeout=timeout, at_most_once=at_most_once
            )
            return self._steps[chosen]

        return register if function is None else register(function)

    @overload
    def transaction(
        self, function: Callable[Concatenate[AsyncTx, P], Coroutine[Any, Any, R]], /
    ) -> Transaction[P, R]: ...
    @overload
    def transaction(
        self, function: Callable[Concatenate[AsyncAlchemy, P], Coroutine[Any, Any, R]], /
    ) -> Transaction[P, R]: ...
    @overload
    def transaction(
        self, function: Callable[Concatenate[Tx, P], R], /
    ) -> PlainTransaction[P, R]: ...
    @overload
    def transaction(
        self, function: Callable[Concatenate[PlainAlchemy, P], R], /
    ) -> PlainTransaction[P, R]: ...
    @overload
    def transaction(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        isolation: Isolation = Isolation.READ_COMMITTED,
        database: Database | None = None,
    ) -> TransactionDecorator: ...
    def transaction(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        isolation: Isolation = Isolation.READ_COMMITTED,
        database: Database | None = None,
    ) -> Any:
        """Register a transactional step: its SQL and the record of its outcome commit together, so exactly once.

        The function's first parameter is a connection in a transaction, which everstep commits; callers leave
        it away. It is a psycopg connection, or what its annotation says: AsyncSession, AsyncConnection, Session
        or Connection of SQLAlchemy. `database`: another one than the engine's. Serialization failures, deadlocks
        and lost connections are tried again by themselves; `retry` is for errors of the function's own.
        """

        def register(function: Callable[..., Any]) -> Any:
            check_function(function, "transaction")
            chosen = chosen_name(name or function.__qualname__, "transaction")
            self._check_step(chosen, function)
            if database is not None and not isinstance(database, Database):
                raise UsageError(
                    f"transaction {chosen}: database= takes everstep.Database(…), not {database!r}"
                )
            if (
                database is not None
                and self.databases.setdefault(database.name, database) != database
            ):
                raise UsageError(f"app {self.name} has two databases named {database.name}")
            kind = Transaction if inspect.iscoroutinefunction(function) else PlainTransaction
            self._steps[chosen] = kind(
                function, name=chosen, retry=retry, isolation=isolation, database=database
            )
            return self._steps[chosen]

        return register if function is None else register(function)

    def check_steps(self) -> None:
        """Resolve their annotations now."""
        for step in self._steps.values():
            _ = step.result
            if isinstance(step, (Transaction, PlainTransaction)):
                _ = step.form

    def _check_step(self, name: str, function: Callable[..., Any]) -> None:
        if name in self._steps and self._steps[name].function is not function:
            raise UsageError(f"app {self.name} has a step named {name} already: give one a name=")


def check_function(function: Any, what: str) -> None:
    """Raises UsageError for what has no outcome to record: no function, or one that yields."""
    if inspect.isclass(function) or not callable(function) or not hasattr(function, "__qualname__"):
        raise UsageError(f"@app.{what} goes above a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{what} {function.__qualname__} is a generator, and what it yields is not recorded: "
            f"return a list, or write a stream (everstep.write_stream)"
        )
