"""Several things at once inside a workflow, in an order that a replay repeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from everstep.branch import Branch
from everstep.client.handle import Handle
from everstep.context import awaiting_branch
from everstep.durable.calls import ChildHandle
from everstep.durable.stopping import stoppable
from everstep.durable.talking import Position, plain_row
from everstep.durable.waiting import wait_for as wait_for_seen
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.store.models import CheckpointKind, Seen
from everstep.texts import checked

T = TypeVar("T")
R = TypeVar("R")


async def as_completed(coroutines: Iterable[Coroutine[Any, Any, T]]) -> AsyncIterator[T]:
    """Results in the order in which they came, the first time; a replay gives them in the same order.

    Takes the place of `asyncio.as_completed`, whose order is that of a hash table.
    """
    branch = awaiting_branch("everstep.as_completed()")
    left = dict(enumerate(_tasks_of(coroutines)))
    came: list[int] = []
    for number, task in left.items():
        task.add_done_callback(lambda _, number=number: came.append(number))  # type: ignore[misc]
    try:
        while left:
            number = await _next_done(branch, branch.next_position(), left, came)
            yield await left.pop(number)
    finally:
        for task in left.values():
            task.cancel()


def _tasks_of(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    rest = iter(coroutines)
    try:
        return [asyncio.ensure_future(coroutine) for coroutine in rest]
    except asyncio.CancelledError:
        if rest is not coroutines:  # else they have not been made yet
            for unbegun in filter(asyncio.iscoroutine, rest):
                unbegun.close()
        raise


async def _next_done(
    branch: Branch, position: Position, left: dict[int, asyncio.Task[T]], came: list[int]
) -> int:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.VALUE, "next")
    if row is not None:
        assert row.output is not None
        return int(msgspec.json.decode(row.output))
    await asyncio.wait(left.values(), return_when=asyncio.FIRST_COMPLETED)
    number = next(n for n in came if n in left)
    execution.check()
    execution.record(
        plain_row(position, CheckpointKind.VALUE, "next", output=msgspec.json.encode(number))
    )
    return number


def wait_first(
    handles: Sequence[ChildHandle[R] | Handle[R]],
) -> Coroutine[object, None, ChildHandle[R] | Handle[R]]:
    """The first of some workflows to finish, however it ended; a replay gives the same one."""
    if not handles:
        raise UsageError("wait_first() takes at least one handle")
    branch = awaiting_branch("everstep.wait_first()")
    for handle in handles:
        if not isinstance(handle, (ChildHandle, Handle)):
            raise UsageError(
                f"wait_first() takes handles of workflows, not {handle!r}: `await everstep.start(child, …)` gives one"
            )
        checked(handle.id, "a workflow id")
    position = branch.next_position()

    def wait() -> Coroutine[object, None, ChildHandle[R] | Handle[R]]:
        return _wait_first(branch, position, handles)

    return stoppable(branch.execution, (position, CheckpointKind.VALUE, "first"), wait)


async def _wait_first(
    branch: Branch, position: Position, handles: Sequence[ChildHandle[R] | Handle[R]]
) -> ChildHandle[R] | Handle[R]:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.VALUE, "first")
    if row is None:
        await execution.settle()

        async def look() -> tuple[int, Seen | None]:
            signals = []
            for handle in handles:
                seen = await execution.recorder.eyes.outcome(execution, handle.id)
                signals.append(seen.signals)
                if not seen.known:
                    raise UnknownWorkflowError(f"there is no workflow with id {handle.id!r}")
                if seen.finished:
                    return min(signals), seen
            return min(signals), None

        keys = [f"workflow:{handle.id}" for handle in handles]
        seen = await wait_for_seen(execution, position, look, None, keys)
        assert seen is not None
        assert seen.outcome is not None
        row = plain_row(
            position, CheckpointKind.VALUE, "first", output=msgspec.json.encode(seen.outcome.id)
        )
        execution.record(row)
    assert row.output is not None
    first = msgspec.json.decode(row.output)
    return next(handle for handle in handles if handle.id == first)
