"""Looks at the database for waiting workflows, and wakes those that a commit has stirred.

What a commit does to another workflow (a message, a result) is durable with it; the wake-up follows in a
statement of its own, because locking other workflows' runs inside a batch would let two workers deadlock. A
worker that dies in between loses no wake-up: the sweep finds waiting workflows that have no reason to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from everstep.context import Execution, current_branch
from everstep.errors import Fenced
from everstep.store.connection import Connection, Link
from everstep.store.messages import Messages
from everstep.store.models import Seen

T = TypeVar("T")


class Lookout:
    """What a workflow waits for, as the database has it now."""

    def __init__(self, link: Link, messages: Messages) -> None:
        self._link = link
        self._messages = messages

    async def exists(self, execution: Execution, target: str) -> Seen:
        """Whether another workflow exists, and has finished."""
        return _owned(
            execution,
            await self._ask(lambda c: self._messages.peek_outcome(c, execution.id, target)),
        )

    async def message(self, execution: Execution, topic: str) -> Seen:
        """The oldest message of a topic that this workflow has not taken."""
        taken = sorted(execution.taken)
        return _owned(
            execution,
            await self._ask(lambda c: self._messages.peek_message(c, execution.id, topic, taken)),
        )

    async def outcome(self, execution: Execution, target: str) -> Seen:
        """Another workflow's outcome. Asks to be woken first, so that nothing falls between."""
        await self._watch(execution, target)
        return _owned(
            execution,
            await self._ask(lambda c: self._messages.peek_outcome(c, execution.id, target)),
        )

    async def event(self, execution: Execution, target: str, key: str) -> Seen:
        """Another workflow's event. Asks to be woken first, so that nothing falls between."""
        await self._watch(execution, target)
        return _owned(
            execution,
            await self._ask(lambda c: self._messages.peek_event(c, execution.id, target, key)),
        )

    async def _ask(self, function: Callable[[Connection], Awaitable[T]]) -> T:
        # A driver's time limits and tasks are the engine's, not the workflow's.
        token = current_branch.set(None)
        try:
            return await self._link.retry(function)
        finally:
            current_branch.reset(token)

    async def _watch(self, execution: Execution, target: str) -> None:
        if target not in execution.watched:
            await self._ask(lambda c: self._messages.watch(c, target, execution.id))
            execution.watched.add(target)


def _owned(execution: Execution, seen: Seen | None) -> Seen:
    """What was seen. No row: the workflow is no longer this worker's."""
    if seen is None:
        execution.interrupt(Fenced())
        raise Fenced
    return seen


class Waker:
    """Wakes workflows after the commits that stirred them, many at a time."""

    def __init__(self, link: Link, messages: Messages, announce: Callable[[], None]) -> None:
        self._link = link
        self._messages = messages
        self._announce = announce
        self._due: set[str] = set()
        self._arrived = asyncio.Event()

    def stir(self, ids: list[str]) -> None:
        """Wake these, soon. An empty list: only that something became claimable."""
        self._due.update(ids)
        self._arrived.set()

    async def run(self) -> None:
        """Wake for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            due, self._due = sorted(self._due), set()
            if due:
                await self._link.retry(lambda c, due=due: self._messages.wake(c, due))  # type: ignore[misc]
            self._announce()
