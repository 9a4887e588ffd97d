"""A client without `await`: the asynchronous one, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from everstep.client import asynchronous
from everstep.client import handle as handles
from everstep.client.blocking_messages import ClientMessages
from everstep.client.blocking_timetable import Timetable
from everstep.client.startable import StartOptions, Takes0, Takes1, Takes2, Takes3, Takes4
from everstep.codec import MAX_PAYLOAD
from everstep.context import current_branch
from everstep.definitions import Workflow
from everstep.durable.children import start_child
from everstep.encoding import Codec
from everstep.errors import UsageError
from everstep.portal import on_loop, wait_on
from everstep.store.infos import StepInfo, WorkflowInfo
from everstep.store.models import Outcome
from everstep.store.workflows import Filter

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")


class Client(ClientMessages):
    """everstep.Client without `await`. Use as `with sync.Client.connect(url) as client`.

    May be used from several threads. Raises DatabaseUnreachableError, SchemaError or UsageError on entry.
    """

    def __init__(
        self,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        codec: Codec | None = None,
        listen: bool = True,
    ) -> None:
        self._make: Callable[[], asynchronous.Client] = lambda: asynchronous.Client(
            url, schema, max_payload=max_payload, codec=codec, listen=listen
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: asynchronous.Client | None = None

    @classmethod
    def connect(
        cls,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        codec: Codec | None = None,
        listen: bool = True,
    ) -> Self:
        """A client for the time of a `with`."""
        return cls(url, schema, max_payload=max_payload, codec=codec, listen=listen)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Check the database and begin. `with` does this."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="everstep-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._wait(self._open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._loop is None or self._thread is None:
            return
        if self._client is not None:
            self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = self._client = None

    @overload
    def start(self, workflow: Takes0[R], /, **options: Unpack[StartOptions]) -> Handle[R]: ...
    @overload
    def start(
        self, workflow: Takes1[A, R], a: A, /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    def start(
        self, workflow: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    def start(
        self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    def start(
        self,
        workflow: Takes4[A, B, C, D, R],
        a: A,
        b: B,
        c: C,
        d: D,
        /,
        **options: Unpack[StartOptions],
    ) -> Handle[R]: ...
    def start(self, workflow: Any, /, *args: Any, **options: Any) -> Handle[Any]:
        """Start a workflow; it exists, durably, when this returns. Options as in everstep.Client.start.

        In a plain workflow it starts a child, as that one does in an async workflow.
        """
        branch = current_branch.get()
        if branch is None or not branch.execution.plain or not isinstance(workflow, Workflow):
            return Handle(self, self._wait(self._async.start(workflow, *args, **options)))
        child = start_child(branch, workflow, args, {}, options)  # type: ignore[arg-type]
        return self.handle(workflow, on_loop(branch.execution, child))

    def start_many(
        self,
        workflow: Workflow[Any, R],
        inputs: Iterable[tuple[Any, ...]],
        *,
        progress: Callable[[int], None] = lambda _: None,
        **options: Unpack[StartOptions],
    ) -> builtins.list[Handle[R]]:
        """Start a workflow once per tuple of arguments, as everstep.Client.start_many does."""
        started = self._async.start_many(workflow, inputs, progress=progress, **options)
        return [Handle(self, handle) for handle in self._wait(started)]

    def start_named(
        self, name: str, input: dict[str, Any], **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a workflow whose code is not here, by name."""
        return Handle(self, self._wait(self._async.start_named(name, input, **options)))

    def handle(self, workflow: Workflow[Any, R], id: str) -> Handle[R]:
        """A handle of a workflow started earlier, or elsewhere."""
        return Handle(self, self._async.handle(workflow, id))

    def handle_named(self, id: str) -> Handle[Any]:
        """A handle of a workflow whose code is not here; its result comes as JSON values."""
        return Handle(self, self._async.handle_named(id))

    def get(self, workflow_id: str) -> WorkflowInfo | None:
        """A workflow with its payloads, or None."""
        return self._wait(self._async.get(workflow_id))

    def list(self, chosen: Filter | None = None, *, limit: int = 100) -> Sequence[WorkflowInfo]:
        """Workflows, newest first, without payloads."""
        return self._wait(self._async.list(chosen, limit=limit))

    def steps(self, workflow_id: str, *, limit: int = 10_000) -> Sequence[StepInfo]:
        """A workflow's recorded steps, in order."""
        return self._wait(self._async.steps(workflow_id, limit=limit))

    def outcome(self, workflow_id: str) -> Outcome:
        """Wait until a workflow has finished. Raises UnknownWorkflowError if it does not exist."""
        return self._wait(self._async.outcome(workflow_id))

    def cancel(self, workflow_id: str, *, children: bool = True) -> bool:
        """Cancel a workflow and its open descendants. Returns False if it had finished already."""
        return self._wait(self._async.cancel(workflow_id, children=children))

    @property
    def schedules(self) -> Timetable:
        """Schedules: pause, resume, change, trigger, backfill."""
        return Timetable(self._async.schedules, self._wait)

    @property
    def _async(self) -> asynchronous.Client:
        if self._client is None:
            raise UsageError(
                "this client is not open. Use `with sync.Client.connect(url) as client`"
            )
        return self._client

    async def _open(self) -> asynchronous.Client:
        # Made here, because it belongs to the loop that runs.
        client = self._make()
        await client.open()
        return client

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        branch = current_branch.get()
        if self._loop is None or (branch is not None and not branch.execution.plain):
            coroutine.close()
            raise UsageError(
                "sync.Client would block this async workflow. Use everstep.Client and await it"
            )
        return wait_on(self._loop, coroutine)


class Handle(Generic[R]):
    """A workflow that was started, here or elsewhere. `created`: this call started it."""

    def __init__(self, client: Client, inner: handles.Handle[R]) -> None:
        self.id = inner.id
        self.created = inner.created
        self.payload = inner.payload
        self._client = client
        self._inner = inner

    def result(self, timeout: timedelta | float | None = None) -> R:
        """The workflow's result, waiting for it at most `timeout` (seconds or timedelta).

        Raises WorkflowError, WorkflowCancelledError or WorkflowDeadError as it ended, and TimeoutError. In a plain
        workflow it waits parked, and what came is recorded.
        """
        branch = current_branch.get()
        if branch is None or not branch.execution.plain:
            return self._client._wait(self._inner.result(timeout))  # noqa: SLF001
        if timeout is not None:
            raise UsageError("result(timeout=…) does not work inside a workflow: leave it away")
        found: R = on_loop(branch.execution, self._inner.result_in(branch))
        return found

    def info(self) -> WorkflowInfo:
        """Where the workflow stands. Raises UnknownWorkflowError if it does not exist."""
        return self._client._wait(self._inner.info())  # noqa: SLF001

    def steps(self) -> builtins.list[StepInfo]:
        """Its recorded steps, in order."""
        return list(self._client._wait(self._inner.steps()))  # noqa: SLF001

    def cancel(self) -> bool:
        """Ask it to stop. Returns False if it had finished already."""
        return self._client._wait(self._inner.cancel())  # noqa: SLF001

    def __repr__(self) -> str:
        return f"<handle of workflow {self.id}>"
