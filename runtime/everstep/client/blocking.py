"""A client without `await`: the asynchronous one, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Self, TypeVar, Unpack, overload

from everstep.branch import current_branch
from everstep.client import asynchronous
from everstep.client.blocking_handle import Handle
from everstep.client.blocking_messages import ClientMessages
from everstep.client.blocking_timetable import Timetable
from everstep.client.startable import StartOptions, Takes0, Takes1, Takes2, Takes3, Takes4
from everstep.codec import MAX_PAYLOAD
from everstep.definitions import Workflow
from everstep.durable.children import start_child
from everstep.encoding import Codec
from everstep.errors import UsageError
from everstep.portal import begin_on, on_loop, outcome_of
from everstep.store.infos import StepInfo, WorkflowInfo
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
        self._lock = threading.Lock()
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
            target=_serve, args=(self._loop,), name="everstep-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._wait(self._open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End its connections. Whoever still waits for something of it gets a UsageError."""
        if self._loop is None or self._thread is None:
            return
        try:
            if self._client is not None:
                self._wait(self._client.close())
        finally:
            with self._lock:  # what was begun before comes to the loop before this
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = self._client = None
            self._thread.join()
            self._thread = None

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
    def start(self, workflow: Any, /, *args: Any, **options: Unpack[StartOptions]) -> Handle[Any]:
        """Start a workflow; it exists, durably, when this returns.

        The same `id` with the same workflow and input gives the same workflow; with another name or input
        it raises WorkflowConflictError. Raises PayloadError if the arguments cannot be recorded. Options are
        those of StartOptions. In a workflow it starts a child.
        """
        branch = current_branch.get()
        if branch is None or not branch.execution.plain or not isinstance(workflow, Workflow):
            return Handle(self._wait, self._wait(self._async.start(workflow, *args, **options)))
        child = start_child(branch, workflow, args, {}, options)
        return self.handle(workflow, on_loop(branch.execution, child))

    def start_many(
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
        started = self._async.start_many(workflow, inputs, progress=progress, **options)
        return [Handle(self._wait, handle) for handle in self._wait(started)]

    def start_named(
        self, name: str, input: dict[str, Any], **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a workflow whose code is not here: by name, its input a JSON object of its parameters."""
        return Handle(self._wait, self._wait(self._async.start_named(name, input, **options)))

    def handle(self, workflow: Workflow[Any, R], id: str) -> Handle[R]:
        """A handle of a workflow started earlier, or elsewhere."""
        return Handle(self._wait, self._async.handle(workflow, id))

    def handle_named(self, id: str) -> Handle[Any]:
        """A handle of a workflow whose code is not here; its result comes as JSON values."""
        return Handle(self._wait, self._async.handle_named(id))

    def get(self, workflow_id: str) -> WorkflowInfo | None:
        """A workflow with its payloads, or None if there is none with this id."""
        return self._wait(self._async.get(workflow_id))

    def list(self, chosen: Filter | None = None, *, limit: int = 100) -> Sequence[WorkflowInfo]:
        """Workflows, newest first, without payloads."""
        return self._wait(self._async.list(chosen, limit=limit))

    def steps(self, workflow_id: str, *, limit: int = 10_000) -> Sequence[StepInfo]:
        """A workflow's recorded steps, in order. Raises UnknownWorkflowError if it does not exist."""
        return self._wait(self._async.steps(workflow_id, limit=limit))

    def cancel(self, workflow_id: str, *, children: bool = True) -> bool:
        """Cancel a workflow and its open descendants: at once if not running, else within a second or so.

        A running async step gets CancelledError, and nothing of it is recorded; a plain one ends first.

        Returns False if it had finished already. Raises UnknownWorkflowError if it does not exist.
        """
        return self._wait(self._async.cancel(workflow_id, children=children))

    @property
    def schedules(self) -> Timetable:
        """Schedules: pause, resume, change, trigger, backfill."""
        return Timetable(self._async.schedules, self._wait)

    @property
    def _async(self) -> asynchronous.Client:
        if self._client is None:
            raise UsageError(_CLOSED)
        return self._client

    async def _open(self) -> asynchronous.Client:
        # Made here, because it belongs to the loop that runs.
        client = self._make()
        await client.open()
        return client

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            loop = self._loop
            if loop is None or (wrong := self._wrong_place()):
                coroutine.close()
                raise UsageError(_CLOSED if loop is None else wrong)
            future = begin_on(loop, coroutine)
        try:
            return outcome_of(future)
        except concurrent.futures.CancelledError:
            raise UsageError(_CLOSED) from None

    def _wrong_place(self) -> str:
        branch = current_branch.get()
        if branch is not None and not branch.execution.plain:
            return "sync.Client would block this async workflow. Use everstep.Client and await it"
        if threading.current_thread() is self._thread:
            return (
                "sync.Client runs this in its own thread (progress=, the inputs of start_many, a codec), where waiting "
                "for it would be for ever. Ask before or after that call, or use another client"
            )
        return ""


_CLOSED = (
    "this client is not open, or closed: use it inside `with sync.Client.connect(url) as client`"
)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a client's loop until it is stopped. Whoever waits for something then is told, rather than left to wait."""
    try:
        loop.run_forever()
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    finally:
        loop.close()
