"""What the decorators of an App take and return, for type checkers: a function's own types are kept."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from everstep.definitions import AsyncWorkflow, PlainStep, PlainWorkflow, Step
from everstep.durable.transactional import PlainTransaction, Transaction
from everstep.store.sessions import AsyncTx, Tx

P = ParamSpec("P")
R = TypeVar("R")


class _AsyncAlchemy(Protocol):
    """AsyncSession and AsyncConnection of SQLAlchemy, by what only they have."""

    @property
    def stream_scalars(self) -> Any: ...


class _PlainAlchemy(Protocol):
    """Session and Connection of SQLAlchemy."""

    @property
    def scalars(self) -> Any: ...


AsyncAlchemy = TypeVar("AsyncAlchemy", bound=_AsyncAlchemy)
PlainAlchemy = TypeVar("PlainAlchemy", bound=_PlainAlchemy)


class StepDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainStep[P, R]: ...


class TransactionDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncTx, P], Coroutine[Any, Any, R]], /
    ) -> Transaction[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncAlchemy, P], Coroutine[Any, Any, R]], /
    ) -> Transaction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Tx, P], R], /) -> PlainTransaction[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[PlainAlchemy, P], R], /
    ) -> PlainTransaction[P, R]: ...


class WorkflowDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainWorkflow[P, R]: ...


class ScheduleDecorator(Protocol):
    @overload
    def __call__(self, function: AsyncWorkflow[P, R], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: PlainWorkflow[P, R], /) -> PlainWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> PlainWorkflow[P, R]: ...
