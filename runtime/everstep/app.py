"""An App: the workflows and steps of one application, registered by name. It has no connection and no state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from everstep.database import Database
from everstep.decorators import (
    AsyncAlchemy,
    PlainAlchemy,
    ScheduleDecorator,
    StepDecorator,
    TransactionDecorator,
    WorkflowDecorator,
)
from everstep.definitions import (
    DEFAULT_QUEUE,
    AsyncWorkflow,
    PlainStep,
    PlainWorkflow,
    Step,
    Workflow,
)
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.queues import Queue, Rate, queue_name
from everstep.retry import Retry
from everstep.schedules import CatchUp, Overlap, Schedule, make_schedule
from everstep.store.places import Isolation
from everstep.store.sessions import AsyncTx, Tx
from everstep.transactional import PlainTransaction, Transaction

P = ParamSpec("P")
R = TypeVar("R")
Async = Callable[P, Coroutine[Any, Any, R]]

MAX_PAYLOAD = 1_048_576
"""Default limit of one payload in bytes."""


class App:
    """Workflows and steps by name. Several apps in one process do not know of each other.

    `name` appears in logs and metrics. `max_payload` is the limit of one input, result or step result in
    bytes, at most 64 MiB.
    """

    def __init__(self, name: str, *, max_payload: int = MAX_PAYLOAD) -> None:
        if not name or not name.isprintable():
            raise UsageError("an App has a printable, non-empty name")
        if not 0 < max_payload <= 64 * 1_048_576:
            raise UsageError(
                f"max_payload is between 1 and {64 * 1_048_576} bytes, not {max_payload}"
            )
        self.name = name
        self.max_payload = max_payload
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.schedules: dict[str, Schedule] = {}
        self.declared_queues: dict[str, Queue] = {}
        self.databases: dict[str, Database] = {}
        self._steps: dict[str, Any] = {}

    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncWorkflow[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def workflow(self, function: Callable[P, R], /) -> PlainWorkflow[P, R]: ...
    @overload
    def workflow(
        self, /, *, name: str | None = None, queue: str | Queue = DEFAULT_QUEUE
    ) -> WorkflowDecorator: ...
    def workflow(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        queue: str | Queue = DEFAULT_QUEUE,
    ) -> Any:
        """Register a workflow function. `name` defaults to the function's qualified name."""

        def register(function: Callable[..., Any]) -> Workflow[Any, Any]:
            chosen = _checked_name(name or function.__qualname__, "workflow")
            kind = AsyncWorkflow if inspect.iscoroutinefunction(function) else PlainWorkflow
            made: Workflow[Any, Any] = kind(function, name=chosen, queue=queue_name(queue))
            if chosen in self.workflows and self.workflows[chosen].function is not function:
                raise UsageError(
                    f"app {self.name} has a workflow named {chosen} already: give one a name="
                )
            self.workflows[chosen] = made
            return made

        return register if function is None else register(function)

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
            chosen = _checked_name(name or function.__qualname__, "step")
            if chosen in self._steps and self._steps[chosen].function is not function:
                raise UsageError(
                    f"app {self.name} has a step named {chosen} already: give one a name="
                )
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
            chosen = _checked_name(name or function.__qualname__, "transaction")
            if chosen in self._steps and self._steps[chosen].function is not function:
                raise UsageError(
                    f"app {self.name} has a step named {chosen} already: give one a name="
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

    def schedule(
        self,
        cron: str | None = None,
        /,
        *,
        every: timedelta | None = None,
        timezone: str = "UTC",
        catch_up: CatchUp = CatchUp.LATEST,
        overlap: Overlap = Overlap.ALLOW,
        name: str | None = None,
        queue: str | Queue | None = None,
    ) -> ScheduleDecorator:
        """Register a function of a tick as a workflow, started at each tick of a cron expression or interval.

        Exactly one workflow per tick, whatever the number of workers. Above an `@app.workflow` or another
        `@app.schedule` it adds a schedule to that workflow. `name` is the schedule's, by default the function's
        qualified name; `queue` is where its workflows go.
        """

        def register(function: Any) -> Any:
            workflow: Workflow[Any, Any] = (
                function if isinstance(function, Workflow) else self.workflow(function)
            )
            chosen = name or workflow.name
            if chosen in self.schedules:
                raise UsageError(
                    f"app {self.name} has a schedule named {chosen} already: give one a name="
                )
            self.schedules[chosen] = make_schedule(
                chosen,
                workflow,
                queue=workflow.queue if queue is None else queue_name(queue),
                timing=(cron, every, timezone),
                catch_up=catch_up,
                overlap=overlap,
            )
            return workflow

        return register

    def queue(
        self,
        name: str,
        /,
        *,
        worker_concurrency: int | None = None,
        max_running: int | None = None,
        rate: Rate | None = None,
        partition_max_running: int | None = None,
        partition_rate: Rate | None = None,
    ) -> Queue:
        """Declare a queue: how many of its workflows run at a time, and how fast they begin.

        What is not given is not limited. An operator may change it all while it runs (`everstep queue set`); that
        holds until the declaration changes. The fields are explained at `Queue`.
        """
        queue = Queue(
            name=name,
            worker_concurrency=worker_concurrency,
            max_running=max_running,
            rate=rate,
            partition_max_running=partition_max_running,
            partition_rate=partition_rate,
        )
        if self.declared_queues.setdefault(name, queue) != queue:
            raise UsageError(f"app {self.name} declares queue {name} twice, and not alike")
        return queue

    def workflow_named(self, name: str) -> Workflow[Any, Any]:
        """The workflow function of this name. Raises UnknownWorkflowError that lists those there are."""
        try:
            return self.workflows[name]
        except KeyError:
            known = ", ".join(sorted(self.workflows)) or "none"
            raise UnknownWorkflowError(
                f"app {self.name} has no workflow named {name!r}; it has: {known}"
            ) from None

    def check(self) -> None:
        """Resolve every annotation now, so that a mistake shows at start and not at the first call."""
        for workflow in self.workflows.values():
            _ = workflow.arguments, workflow.result
        for step in self._steps.values():
            _ = step.result
            if isinstance(step, (Transaction, PlainTransaction)):
                _ = step.form
        for schedule in self.schedules.values():
            schedule.check()

    def queues(self) -> list[str]:
        """The queues it declares, and those its workflows go to by default."""
        own = (*self.declared_queues, *(w.queue for w in self.workflows.values()))
        of_schedules = (schedule.queue for schedule in self.schedules.values())
        return sorted({DEFAULT_QUEUE, *of_schedules, *own})


def _checked_name(name: str, what: str) -> str:
    if not name or len(name.encode()) > 200 or not name.isprintable():
        raise UsageError(f"a {what} has a printable name of 1 to 200 bytes, not {name!r}")
    return name
