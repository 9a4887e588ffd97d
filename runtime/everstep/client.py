"""The client: start workflows, ask about them, wait for them, stop them. Needs a database, no worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from everstep.app import MAX_PAYLOAD
from everstep.codec import JSON, Payload, encode_plain
from everstep.definitions import DEFAULT_QUEUE, Workflow
from everstep.errors import Failure, UnknownWorkflowError, UsageError
from everstep.handle import Handle
from everstep.ids import new_id
from everstep.outcomes import Outcomes
from everstep.settings import checked_schema
from everstep.starter import Starter
from everstep.store.checks import check_schema
from everstep.store.connection import Link
from everstep.store.hints import Channel, Ear, Notifier
from everstep.store.models import Outcome, Start, Started, StepInfo, WorkflowInfo
from everstep.store.workflows import Eager, Filter, Workflows

A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)
D = TypeVar("D", contravariant=True)
R = TypeVar("R", covariant=True)


class Takes0(Protocol[R]):
    """A workflow that can be started without arguments."""

    def signature(self) -> R: ...


class Takes1(Protocol[A, R]):
    """A workflow that can be started with one argument."""

    def signature(self, a: A, /) -> R: ...


class Takes2(Protocol[A, B, R]):
    """A workflow that can be started with two arguments."""

    def signature(self, a: A, b: B, /) -> R: ...


class Takes3(Protocol[A, B, C, R]):
    """A workflow that can be started with three arguments."""

    def signature(self, a: A, b: B, c: C, /) -> R: ...


class Takes4(Protocol[A, B, C, D, R]):
    """A workflow that can be started with four arguments."""

    def signature(self, a: A, b: B, c: C, d: D, /) -> R: ...


class Client:
    """Speaks to the workflows of one schema in one database.

    Use `async with Client.connect(url) as client`. `max_payload` limits inputs, in bytes.
    """

    def __init__(
        self,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        listen: bool = True,
    ) -> None:
        checked_schema(schema)
        self._max_payload = max_payload
        self._start_link = Link(url, "everstep client")
        self._ask_link = Link(url, "everstep client")
        self._notify_link = Link(url, "everstep notify")
        self._workflows = Workflows(schema)
        self._schema = schema
        self.outcomes = Outcomes(self._ask_link, self._workflows)
        self._notifier = Notifier(self._notify_link, schema)
        self._starter = Starter(self._start_link, self._workflows, started=self._after_start)
        self._ear = Ear(url, schema, {Channel.DONE: self.outcomes.hint}) if listen else None
        self._here: tuple[Eager, Callable[[list[Start]], None]] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        listen: bool = True,
    ) -> AsyncIterator[Client]:
        """A client for the time of an `async with`.

        Raises DatabaseUnreachableError, SchemaError or UsageError at once rather than at the first call.
        """
        client = cls(url, schema, max_payload=max_payload, listen=listen)
        await client.open()
        try:
            yield client
        finally:
            await client.close()

    async def open(self) -> None:
        """Check the database and begin. `connect` does this."""
        await self._ask_link.first(lambda c: check_schema(c, self._schema))
        loops = [self._starter.run(), self.outcomes.run(), self._notifier.run()]
        if self._ear is not None:
            loops.append(self._ear.run())
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in (self._start_link, self._ask_link, self._notify_link):
            await link.close()

    def run_here(self, eager: Eager | None, begin: Callable[[list[Start]], None]) -> None:
        """Claim in the starting statement what a worker of this process may run (None: no longer)."""
        self._here = None if eager is None else (eager, begin)

    # -- start -----------------------------------------------------------------------------------

    @overload
    async def start(
        self,
        workflow: Takes0[R],
        /,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        workflow: Takes1[A, R],
        a: A,
        /,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        workflow: Takes2[A, B, R],
        a: A,
        b: B,
        /,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        workflow: Takes3[A, B, C, R],
        a: A,
        b: B,
        c: C,
        /,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        workflow: Takes4[A, B, C, D, R],
        a: A,
        b: B,
        c: C,
        d: D,
        /,
        *,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[R]: ...
    async def start(
        self,
        workflow: Any,
        /,
        *args: Any,
        id: str | None = None,
        queue: str | None = None,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[Any]:
        """Start a workflow; it exists, durably, when this returns.

        `id` is the idempotency key: the same id with the same workflow and input gives the same workflow, and
        WorkflowConflictError otherwise. `priority` 0 (first) to 3; `delay` in seconds or as a timedelta;
        `attributes` can be filtered by. Raises PayloadError if the arguments cannot be recorded.
        """
        if not isinstance(workflow, Workflow):
            raise UsageError(
                f"client.start takes a function decorated with @app.workflow, not {workflow!r}"
            )
        body = workflow.arguments.encode(args, {}, self._max_payload)
        start = make_start(
            workflow.name,
            body,
            id=id,
            queue=queue or workflow.queue,
            priority=priority,
            delay=delay,
            attributes=attributes,
        )
        return await self._start(start, workflow.result)

    async def start_named(
        self,
        name: str,
        input: dict[str, Any],
        *,
        id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 1,
        delay: timedelta | float = 0,
        attributes: dict[str, Any] | None = None,
    ) -> Handle[Any]:
        """Start a workflow whose code is not here: by name, its input a JSON object of its parameters."""
        body = encode_plain(input, f"input of workflow {name}", self._max_payload)
        start = make_start(
            name, body, id=id, queue=queue, priority=priority, delay=delay, attributes=attributes
        )
        return await self._start(start, Payload(Any, f"result of workflow {name}"))

    async def _start(self, start: Start, payload: Payload[Any]) -> Handle[Any]:
        created = await self._starter.start(start, self._here[0] if self._here else None)
        return Handle(self, start.id, payload, created=created)

    def _after_start(self, starts: list[Start], reply: Started) -> None:
        if reply.claimed and self._here is not None:
            self._here[1]([s for s in starts if s.id in reply.claimed])
        if len(reply.claimed) + len(reply.existing) < len(starts):
            self._notifier.hint(Channel.READY)

    # -- ask -------------------------------------------------------------------------------------

    def handle(self, workflow: Workflow[Any, R], id: str) -> Handle[R]:
        """A handle of a workflow started earlier, or elsewhere."""
        return Handle(self, id, workflow.result, created=False)

    def handle_named(self, id: str) -> Handle[Any]:
        """A handle of a workflow whose code is not here; its result comes as JSON values."""
        return Handle(self, id, Payload(Any, f"result of workflow {id}"), created=False)

    async def outcome(self, workflow_id: str) -> Outcome:
        """Wait until a workflow has finished. Raises UnknownWorkflowError if it does not exist."""
        if not await self._ask_link.retry(lambda c: self._workflows.known_ids(c, [workflow_id])):
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        return await self.outcomes.wait(workflow_id)

    async def get(self, workflow_id: str) -> WorkflowInfo | None:
        """A workflow with its payloads, or None."""
        return await self._ask_link.retry(lambda c: self._workflows.describe(c, workflow_id))

    async def list(
        self, chosen: Filter | None = None, *, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """Workflows, newest first, without payloads."""
        return await self._ask_link.retry(
            lambda c: self._workflows.list_workflows(c, chosen or Filter(), limit)
        )

    async def steps(self, workflow_id: str, *, limit: int = 10_000) -> Sequence[StepInfo]:
        """A workflow's recorded steps, in order."""
        return await self._ask_link.retry(
            lambda c: self._workflows.list_steps(c, workflow_id, limit)
        )

    async def cancel(self, workflow_id: str) -> bool:
        """Cancel a workflow: at once if it is not running, else at its next step or await.

        Returns False if it had finished already. Raises UnknownWorkflowError if it does not exist.
        """
        error = Failure("everstep.Cancelled", "the workflow was cancelled").encode()
        verdict = await self._ask_link.retry(
            lambda c: self._workflows.cancel(c, workflow_id, error)
        )
        if verdict == "unknown":
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        if verdict == "cancelled":
            self._notifier.hint(Channel.DONE)
        return verdict != "finished"


def make_start(
    name: str,
    body: bytes,
    *,
    id: str | None,
    queue: str,
    priority: int,
    delay: timedelta | float,
    attributes: dict[str, Any] | None,
) -> Start:
    """A checked Start. Raises UsageError that names the option."""
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if id is not None and not 1 <= len(id.encode()) <= 512:
        raise UsageError(f"a workflow id has 1 to 512 bytes, not {len(id.encode())}")
    if id is not None and "\0" in id:
        raise UsageError("a workflow id holds no NUL character")
    if priority not in range(4):
        raise UsageError(f"priority is 0 (first) to 3 (last), not {priority}")
    if not 0 <= seconds <= 100 * 366 * 86_400:
        raise UsageError(f"delay is between 0 seconds and 100 years, not {delay!r}")
    return Start(
        id=new_id() if id is None else id,
        name=name,
        queue=queue,
        codec=JSON,
        input=body,
        priority=priority,
        delay=seconds,
        attributes=attributes,
    )
