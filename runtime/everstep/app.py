"""An App: the workflows and steps of one application, registered by name. It has no connection and no state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from everstep.app_steps import Steps, check_function
from everstep.codec import MAX_PAYLOAD
from everstep.decorators import ScheduleDecorator, WorkflowDecorator
from everstep.definitions import DEFAULT_QUEUE, AsyncWorkflow, PlainWorkflow, Workflow
from everstep.encoding import Codec, Encoding
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.queues import Queue, Rate, queue_name
from everstep.schedules import CatchUp, Overlap, Schedule, make_schedule
from everstep.texts import chosen_name

P = ParamSpec("P")
R = TypeVar("R")


class App(Steps):
    """Workflows and steps by name. Several apps in one process do not know of each other.

    `name` appears in logs and metrics. `max_payload` is the limit of one input, result or step result in
    bytes, at most 64 MiB. `codec` turns payloads into what is stored, such as ciphertext, and back.
    """

    def __init__(
        self, name: str, *, max_payload: int = MAX_PAYLOAD, codec: Codec | None = None
    ) -> None:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise UsageError(f"an App has a printable, non-empty name, not {name!r}")
        if not isinstance(max_payload, int) or not 0 < max_payload <= 64 * 1_048_576:
            raise UsageError(
                f"max_payload is between 1 and {64 * 1_048_576} bytes, not {max_payload!r}"
            )
        super().__init__(name)
        self.max_payload = max_payload
        self.codec = Encoding(codec).codec
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.schedules: dict[str, Schedule] = {}
        self.declared_queues: dict[str, Queue] = {}
        self.workers: set[object] = set()
        """Those running in this process. While there is one, no workflow, schedule or queue is added."""

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
            check_function(function, "workflow")
            chosen = chosen_name(name or function.__qualname__, "workflow")
            self._still_open("workflow", chosen)
            kind = AsyncWorkflow if inspect.iscoroutinefunction(function) else PlainWorkflow
            made: Workflow[Any, Any] = kind(function, name=chosen, queue=queue_name(queue))
            if chosen in self.workflows and self.workflows[chosen].function is not function:
                raise UsageError(
                    f"app {self.name} has a workflow named {chosen} already: give one a name="
                )
            self.workflows[chosen] = made
            return made

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
        if callable(cron):
            raise UsageError("@app.schedule says when: write @app.schedule('0 7 * * *') or every=")

        def register(function: Any) -> Any:
            workflow: Workflow[Any, Any] = (
                function if isinstance(function, Workflow) else self.workflow(function)
            )
            chosen = workflow.name if name is None else name
            self._still_open("schedule", chosen)
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
        self._still_open("queue", name)
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
        self.check_steps()
        for schedule in self.schedules.values():
            schedule.check()

    def queues(self) -> list[str]:
        """The queues it declares, and those its workflows go to by default."""
        own = (*self.declared_queues, *(w.queue for w in self.workflows.values()))
        of_schedules = (schedule.queue for schedule in self.schedules.values())
        return sorted({DEFAULT_QUEUE, *of_schedules, *own})

    def _still_open(self, what: str, name: str) -> None:
        if self.workers:
            raise UsageError(
                f"{what} {name} comes too late: a worker of app {self.name} runs already and would not know of it. "
                f"Register it before the worker starts."
            )
