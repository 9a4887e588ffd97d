"""The client: start workflows, ask about them, wait for them, stop them. Needs a database, no worker."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, Unpack, cast, overload

import msgspec

from everstep.app import MAX_PAYLOAD
from everstep.children import start_child
from everstep.codec import JSON, Payload, encode_plain
from everstep.context import current_branch
from everstep.definitions import DEFAULT_QUEUE, Workflow
from everstep.errors import (
    DuplicateWorkflowError,
    Failure,
    UnknownWorkflowError,
    UsageError,
    WorkflowExistsError,
)
from everstep.handle import Handle
from everstep.outcomes import Outcomes
from everstep.settings import checked_schema
from everstep.startable import StartOptions, Takes0, Takes1, Takes2, Takes3, Takes4, make_start
from everstep.starter import Starter, difference
from everstep.store.checks import check_schema
from everstep.store.connection import Link
from everstep.store.hints import Channel, Ear, Notifier
from everstep.store.messages import Messages
from everstep.store.models import Outcome, Start, Started, StepInfo, WorkflowInfo
from everstep.store.runs import CLAIM_TIMEOUT_SECONDS
from everstep.store.workflows import Eager, Filter, Workflows

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")


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
        # Starts may claim as well, so they are under the time limit of claims.
        self._start_link = Link(url, "everstep client", CLAIM_TIMEOUT_SECONDS)
        self._ask_link = Link(url, "everstep client")
        self._notify_link = Link(url, "everstep notify")
        self._workflows = Workflows(schema)
        self._messages = Messages(schema)
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
        try:
            await self._ask_link.first(lambda c: check_schema(c, self._schema))
        except BaseException:
            await self.close()
            raise
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
    async def start(self, workflow: Takes0[R], /, **options: Unpack[StartOptions]) -> Handle[R]: ...
    @overload
    async def start(
        self, workflow: Takes1[A, R], a: A, /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    async def start(
        self, workflow: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    async def start(
        self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[StartOptions]
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
        **options: Unpack[StartOptions],
    ) -> Handle[R]: ...
    async def start(
        self, workflow: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a workflow; it exists, durably, when this returns.

        The same `id` with the same workflow and input gives the same workflow; with another name or input
        it raises WorkflowConflictError. Raises PayloadError if the arguments cannot be recorded. Options are
        those of StartOptions.
        """
        if not isinstance(workflow, Workflow):
            raise UsageError(
                f"client.start takes a function decorated with @app.workflow, not {workflow!r}"
            )
        branch = current_branch.get()
        if branch is not None:
            child = await start_child(branch, workflow, args, {}, options)
            return Handle(self, child, workflow.result, created=False)
        body = workflow.arguments.encode(args, {}, self._max_payload)
        start = make_start(workflow.name, body, workflow.queue, options)
        return await self._start(start, workflow.result, options)

    async def start_named(
        self, name: str, input: dict[str, Any], **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a workflow whose code is not here: by name, its input a JSON object of its parameters."""
        body = encode_plain(input, f"input of workflow {name}", self._max_payload)
        start = make_start(name, body, DEFAULT_QUEUE, options)
        return await self._start(start, Payload(Any, f"result of workflow {name}"), options)

    async def _start(
        self, start: Start, payload: Payload[Any], options: StartOptions
    ) -> Handle[Any]:
        try:
            if (connection := options.get("connection")) is not None:
                created = await self._start_within(connection, start)
            else:
                created = await self._starter.start(start, self._here[0] if self._here else None)
        except DuplicateWorkflowError as error:
            if options.get("on_duplicate") == "return":
                return Handle(self, error.holder, payload, created=False)
            raise
        if not created:
            await self._meet_existing(start, options.get("on_existing", "return"))
        return Handle(self, start.id, payload, created=created)

    async def _start_within(self, connection: Any, start: Start) -> bool:
        """Start in the caller's transaction. Nobody is hinted: it is claimed within two seconds of the commit."""
        reply = await self._workflows.start_within(connection, start)
        if holder := reply.duplicates.get(start.id):
            raise DuplicateWorkflowError(start.dedup or "", holder)
        if start.id in reply.existing:
            found = await self._ask_link.retry(lambda c: self._workflows.inputs(c, [start.id]))
            if start.id in found and (conflict := difference(start, *found[start.id])):
                raise conflict
        return start.id not in reply.existing

    async def start_many(
        self,
        workflow: Workflow[Any, R],
        inputs: Iterable[tuple[Any, ...]],
        *,
        progress: Callable[[int], None] = lambda _: None,
        **options: Unpack[StartOptions],
    ) -> builtins.list[Handle[R]]:
        """Start a workflow once per tuple of arguments; `progress` is called with how many are started so far.

        With `id="import-7"` the workflows are called import-7/1, import-7/2, …, so that a repeated call gives
        the same ones. Raises the first error, after all of its thousand have been tried.
        """
        handles: builtins.list[Handle[R]] = []
        for chunk in _chunks(enumerate(inputs, 1), 1_000):
            starts = [
                self.start(cast(Any, workflow), *args, **_numbered(options, number))
                for number, args in chunk
            ]
            results = await asyncio.gather(*starts, return_exceptions=True)
            handles += [_unless_error(result) for result in results]
            progress(len(handles))
        return handles

    async def _meet_existing(self, start: Start, policy: str) -> None:
        if policy == "reject":
            raise WorkflowExistsError(
                f"workflow {start.id!r} exists already; on_existing='return' gives its handle instead"
            )
        if policy == "restart":
            restarted = await self._ask_link.retry(
                lambda c: self._workflows.restart(c, start.id, start.priority)
            )
            if restarted:
                self._notifier.hint(Channel.READY)

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

    async def cancel(self, workflow_id: str, *, children: bool = True) -> bool:
        """Cancel a workflow and its open descendants: at once if not running, else at their next await.

        Returns False if it had finished already. Raises UnknownWorkflowError if it does not exist.
        """
        error = Failure("everstep.Cancelled", "the workflow was cancelled").encode()
        ids = [workflow_id]
        if children:
            ids += await self._ask_link.retry(lambda c: self._workflows.descendants(c, workflow_id))
        done = await self._ask_link.retry(lambda c: self._workflows.cancel(c, ids, error))
        if done.wakes:
            await self._ask_link.retry(lambda c: self._messages.wake(c, sorted(done.wakes)))
            self._notifier.hint(Channel.READY)
        if done.cancelled:
            self._notifier.hint(Channel.DONE)
        if workflow_id in {*done.cancelled, *done.cancelling}:
            return True
        if not await self._ask_link.retry(lambda c: self._workflows.known_ids(c, [workflow_id])):
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        return False

    async def send(
        self, workflow_id: str, message: Any, topic: str = "", *, key: str | None = None
    ) -> bool:
        """Send a message to a workflow. With `key`, a repeated send changes nothing.

        Returns False if it has finished, and so will never receive it. Raises UnknownWorkflowError.
        """
        body = encode_plain(message, f"message of topic {topic!r}", self._max_payload)
        open_ = await self._ask_link.retry(
            lambda c: self._messages.send(c, workflow_id, topic, codec=JSON, body=body, key=key)
        )
        if open_:
            await self._ask_link.retry(lambda c: self._messages.wake(c, [workflow_id]))
            self._notifier.hint(Channel.READY)
            return True
        if not await self._ask_link.retry(lambda c: self._workflows.known_ids(c, [workflow_id])):
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        return False

    async def read_stream(self, workflow_id: str, key: str) -> AsyncIterator[Any]:
        """The values of a workflow's stream, from its beginning, live until it ends.

        Raises UnknownWorkflowError.
        """
        after, pause = 0, 0.01
        while True:
            found = await self._ask_link.retry(
                lambda c, after=after: self._messages.read_stream(c, workflow_id, key, after)  # type: ignore[misc]
            )
            if found is None:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            values, finished = found
            for n, body in values:
                if body is None:
                    return
                after = n
                yield msgspec.json.decode(body)
            if values:
                pause = 0.01
            elif finished:
                return
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)

    async def get_event(
        self,
        workflow_id: str,
        key: str,
        timeout: timedelta | float = 60.0,  # noqa: ASYNC109
    ) -> Any:
        """The value a workflow publishes under a name, waiting for it at most `timeout`.

        Raises TimeoutError, also once the workflow has finished without it, and UnknownWorkflowError.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        ends, pause = time.monotonic() + seconds, 0.01
        while True:
            seen = await self._ask_link.retry(lambda c: self._messages.event(c, workflow_id, key))
            if not seen.known:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            if seen.body is not None:
                return msgspec.json.decode(seen.body)
            if seen.finished or time.monotonic() >= ends:
                raise TimeoutError(f"{workflow_id!r} published no event {key!r}")
            await asyncio.sleep(min(pause, max(ends - time.monotonic(), 0)))
            pause = min(pause * 2, 1.0)


def _chunks(items: Iterable[R], size: int) -> Iterator[list[R]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _numbered(options: StartOptions, number: int) -> StartOptions:
    base = options.get("id")
    return options if base is None else {**options, "id": f"{base}/{number}"}


def _unless_error(result: Handle[R] | BaseException) -> Handle[R]:
    if isinstance(result, BaseException):
        raise result
    return result
