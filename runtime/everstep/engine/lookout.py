"""Looks at the database for waiting workflows, and wakes those that a commit has stirred.

Looks are asked in groups, as commits are written: one group is under way, and whatever is asked meanwhile goes into
the next. So ten thousand branches that wait cost some hundred questions, and a single one is asked at once.

What a commit does to another workflow (a message, a result) is durable with it; the wake-up follows in a
statement of its own, because locking other workflows' runs inside a batch would let two workers deadlock. A
worker that dies in between loses no wake-up: the sweep finds waiting workflows that have no reason to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from msgspec import structs

from everstep.context import Execution
from everstep.encoding import PayloadPlace, event_of, message_to
from everstep.errors import Fenced
from everstep.store.connection import Connection, Link
from everstep.store.messages import Messages
from everstep.store.models import Seen

MAX_ASKED = 200

COME_BACK_SECONDS = (0.005, 0.5)
"""The shortest and the longest pause before another try to wake what somebody held locked."""


class _Sight(Enum):
    MESSAGE = auto()
    OUTCOME = auto()
    EVENT = auto()


@dataclass(eq=False, slots=True)
class _Question:
    """What one branch wants to know. `watch`: it asks to be woken first, so that nothing falls between."""

    sight: _Sight
    execution: Execution
    target: str
    key: str = ""
    watch: bool = False
    answer: asyncio.Future[Seen | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Lookout:
    """What workflows wait for, as the database has it now."""

    def __init__(self, link: Link, messages: Messages) -> None:
        self._link = link
        self._messages = messages
        self._asked: deque[_Question] = deque()
        self._flying: list[_Question] = []
        self._arrived = asyncio.Event()
        self._closed = False

    async def exists(self, execution: Execution, target: str) -> Seen:
        """Whether another workflow exists, and has finished."""
        return await self._ask(_Question(_Sight.OUTCOME, execution, target))

    async def message(self, execution: Execution, topic: str) -> Seen:
        """The oldest message of a topic that this workflow has not taken."""
        seen = await self._ask(_Question(_Sight.MESSAGE, execution, execution.id, topic))
        return _opened(execution, seen, message_to(execution.id, topic))

    async def outcome(self, execution: Execution, target: str) -> Seen:
        """Another workflow's outcome, and to be woken by it."""
        seen = await self._ask(_Question(_Sight.OUTCOME, execution, target, watch=True))
        if seen.outcome is None:
            return seen
        return structs.replace(seen, outcome=execution.encoding.outcome(seen.outcome))

    async def event(self, execution: Execution, target: str, key: str) -> Seen:
        """Another workflow's event, and to be woken by it."""
        seen = await self._ask(_Question(_Sight.EVENT, execution, target, key, watch=True))
        return _opened(execution, seen, event_of(target, key))

    async def run(self) -> None:
        """Ask for ever. Once this ends nobody answers any more, and whoever asks is fenced."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._asked:
                    size = min(len(self._asked), MAX_ASKED)
                    self._flying = [self._asked.popleft() for _ in range(size)]
                    await self._answer(self._flying)
        finally:
            self._closed = True
            for question in (*self._flying, *self._asked):
                _give(question, None)

    async def _ask(self, question: _Question) -> Seen:
        if not self._closed:
            self._asked.append(question)
            self._arrived.set()
        seen = None if self._closed else await question.answer
        if seen is None:
            # The workflow is no longer this worker's.
            question.execution.interrupt(Fenced())
            raise Fenced
        return seen

    async def _answer(self, group: Sequence[_Question]) -> None:
        """Answer every question. A fault that does not pass is told to the one whose question it is."""
        try:
            seen = await self._link.retry(lambda c: self._look(c, group))
        except Exception as error:  # noqa: BLE001
            if len(group) > 1:
                for question in group:
                    await self._answer([question])
            elif not group[0].answer.done():
                group[0].answer.set_exception(error)
            return
        for question, one in zip(group, seen, strict=True):
            _give(question, one)

    async def _look(self, connection: Connection, group: Sequence[_Question]) -> list[Seen | None]:
        await self._watch(connection, group)
        seen: dict[_Question, Seen | None] = {}
        for sight in _Sight:
            if some := [question for question in group if question.sight is sight]:
                seen |= zip(some, await self._peek(connection, sight, some), strict=True)
        return [seen[question] for question in group]

    async def _watch(self, connection: Connection, group: Sequence[_Question]) -> None:
        fresh = [q for q in group if q.watch and q.target not in q.execution.watched]
        if fresh:
            pairs = {(q.target, q.execution.id) for q in fresh}
            await self._messages.watch(connection, sorted(pairs))
        for question in fresh:
            question.execution.watched.add(question.target)

    async def _peek(
        self, connection: Connection, sight: _Sight, some: Sequence[_Question]
    ) -> list[Seen | None]:
        match sight:
            case _Sight.MESSAGE:
                taken = sorted({n for q in some for n in q.execution.taken})
                pairs = [(q.execution.id, q.key) for q in some]
                return await self._messages.peek_messages(connection, pairs, taken)
            case _Sight.OUTCOME:
                pairs = [(q.execution.id, q.target) for q in some]
                return await self._messages.peek_outcomes(connection, pairs)
            case _Sight.EVENT:
                triples = [(q.execution.id, q.target, q.key) for q in some]
                return await self._messages.peek_events(connection, triples)


def _opened(execution: Execution, seen: Seen, place: PayloadPlace) -> Seen:
    """With what the codec made undone: here, so that a body it does not take is the asker's trouble alone."""
    if seen.body is None:
        return seen
    return structs.replace(seen, body=execution.encoding.decode(seen.body, place))


def _give(question: _Question, seen: Seen | None) -> None:
    if not question.answer.done():
        question.answer.set_result(seen)


class Waker:
    """Wakes workflows after the commits that stirred them, many at a time.

    It waits for no lock: whoever holds one (a start in a user's transaction, for as long as that takes) would stop
    everything else this worker asks, and the workflows whose locks it had already. It comes back instead.
    """

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
        pause, longest = COME_BACK_SECONDS
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            due, self._due = sorted(self._due), set()
            missed = await self._wake(due) if due else []
            pause = min(pause * 2, longest) if missed else COME_BACK_SECONDS[0]
            if missed:
                asyncio.get_running_loop().call_later(pause, self.stir, missed)
            self._announce()

    async def _wake(self, ids: Sequence[str]) -> list[str]:
        return await self._link.retry(lambda c: self._messages.wake_free(c, ids))
