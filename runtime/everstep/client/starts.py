"""The part of a client that starts workflows: one, thousands, by name, or in the caller's transaction."""

from __future__ import annotations

import asyncio
import builtins
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack, cast, overload

from everstep.branch import current_branch
from everstep.client.base import ClientBase
from everstep.client.handle import Handle
from everstep.client.startable import (
    StartOptions,
    Takes0,
    Takes1,
    Takes2,
    Takes3,
    Takes4,
    check_options,
    make_start,
)
from everstep.client.starter import difference
from everstep.codec import Payload, encode_plain
from everstep.definitions import DEFAULT_QUEUE, Workflow
from everstep.durable.children import start_child
from everstep.errors import (
    DuplicateWorkflowError,
    PayloadError,
    UsageError,
    WorkflowExistsError,
)
from everstep.store.connection import RowRejected
from everstep.store.hints import Channel
from everstep.store.models import Start
from everstep.texts import brief, chosen_name

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")


class ClientStarts(ClientBase):
    """Starts workflows."""

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
        those of StartOptions. In a workflow it starts a child.
        """
        if not isinstance(workflow, Workflow):
            raise UsageError(
                f"client.start takes a function decorated with @app.workflow, not {workflow!r}"
            )
        branch = current_branch.get()
        if branch is not None:
            child = await start_child(branch, workflow, args, {}, options)
            return self._handle_of(child, workflow.result, created=False)
        check_options(options)  # first: an argument given by keyword is the likelier mistake
        body = workflow.arguments.encode(args, {}, self._max_payload)
        start = make_start(workflow.name, body, workflow.queue, options)
        return await self._start(start, workflow.result, options)

    async def start_named(
        self, name: str, input: dict[str, Any], **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a workflow whose code is not here: by name, its input a JSON object of its parameters."""
        chosen_name(name, "workflow")
        if not isinstance(input, dict):
            raise UsageError(
                f"the input of workflow {name} is a dict of its parameters by name, not {brief(input)}"
            )
        body = encode_plain(input, f"input of workflow {name}", self._max_payload)
        start = make_start(name, body, DEFAULT_QUEUE, options)
        return await self._start(start, Payload(Any, f"result of workflow {name}"), options)

    async def _start(
        self, start: Start, payload: Payload[Any], options: StartOptions
    ) -> Handle[Any]:
        start = self.encoding.start(start)
        if start.debounce is not None:
            return await self._start_debounced(start, payload, options.get("connection"))
        try:
            if (connection := options.get("connection")) is not None:
                created = await self._start_within(connection, start)
            else:
                created = await self._starter.start(start, self._here)
            if not created:
                await self._meet_existing(start, options.get("on_existing", "return"))
        except DuplicateWorkflowError as error:
            if options.get("on_duplicate") == "return":
                return self._handle_of(error.holder, payload, created=False)
            raise
        return self._handle_of(start.id, payload, created=created)

    async def _start_debounced(
        self, start: Start, payload: Payload[Any], connection: Any
    ) -> Handle[Any]:
        # A repeat after a lost reply is known by its id, also when its input has run or was replaced meanwhile.
        if connection is not None:
            id_, created = await self._workflows.debounce_within(connection, start)
            return self._handle_of(id_, payload, created=created)
        try:
            id_, created = await self._lock_link.retry(
                lambda c: self._workflows.start_debounced(c, start)
            )
        except RowRejected as error:
            raise PayloadError(f"workflow {start.name}: the database refuses it: {error}") from None
        return self._handle_of(id_, payload, created=created)

    async def _start_within(self, connection: Any, start: Start) -> bool:
        """Start in the caller's transaction. When that commits is not known here, so the hint is a guess."""
        reply = await self._workflows.start_within(connection, start)
        self._notifier.hint_later(Channel.READY)
        if holder := reply.duplicates.get(start.id):
            raise DuplicateWorkflowError(start.dedup or "", holder)
        if start.id in reply.existing:
            found = await self._workflows.input_within(connection, start.id)
            if found is not None and (conflict := difference(start, self.encoding, *found)):
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
                self.start(cast(Any, workflow), *_arguments(args), **_numbered(options, number))
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
            restarted = await self._ask_link.retry(lambda c: self._workflows.restart(c, start))
            if restarted:
                self._notifier.hint(Channel.READY)


def _chunks(items: Iterable[R], size: int) -> Iterator[list[R]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _arguments(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(given, (tuple, list)):
        raise UsageError(
            f"start_many takes a tuple of arguments for each workflow, not {given!r}: "
            f"[(number,) for number in numbers]"
        )
    return tuple(given)


def _numbered(options: StartOptions, number: int) -> StartOptions:
    base = options.get("id")
    return options if base is None else {**options, "id": f"{base}/{number}"}


def _unless_error(result: Handle[R] | BaseException) -> Handle[R]:
    if isinstance(result, BaseException):
        raise result
    return result
