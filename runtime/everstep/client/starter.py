"""Starts, committed in groups: one batch in flight, whatever arrives meanwhile goes into the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from everstep.encoding import Encoding
from everstep.errors import DuplicateWorkflowError, PayloadError, WorkflowConflictError
from everstep.store.connection import Connection, Link, RowRejected
from everstep.store.models import Start, Started
from everstep.store.start_rows import Eager
from everstep.store.workflows import Workflows

MAX_ROWS = 500
MAX_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Here:
    """A worker in this process, which may begin at once what is started: as many as it has room for now."""

    eager: Eager
    room: Callable[[], int]
    begin: Callable[[list[Start]], None]
    hint: Callable[[], None]
    """There may be something for it to claim."""


@dataclass(eq=False, slots=True)
class _Waiting:
    start: Start
    here: Here | None
    done: asyncio.Future[bool]
    again: bool = False


class Starter:
    """Queue of starts. Every start resolves to whether the workflow is new, or to its error."""

    def __init__(
        self,
        link: Link,
        workflows: Workflows,
        encoding: Encoding,
        *,
        started: Callable[[list[Start], Started], None],
    ) -> None:
        self._encoding = encoding
        self._link = link
        self._workflows = workflows
        self._started = started
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._closed: Exception | None = None
        self._flying: list[_Waiting] = []

    async def start(self, start: Start, here: Here | None = None) -> bool:
        """Start one workflow. Returns whether it is new; raises WorkflowConflictError if its id is another's."""
        if self._closed is not None:
            raise self._closed
        waiting = _Waiting(start, here, self._loop.create_future())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.done

    def refuse(self, error: Exception | None) -> None:
        """Nothing more is started: what still waits, and what comes later, gets this error. None: no longer."""
        self._closed = error
        if error is None:
            return
        for waiting in [*self._flying, *self._queue]:
            _fail(waiting, error)
        self._queue.clear()

    async def run(self) -> None:
        """Commit batches of starts for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                self._flying, eager = self._take()
                await self._flush(self._flying, eager)
                self._flying = []

    def _take(self) -> tuple[list[_Waiting], Eager | None]:
        """The next batch: bounded, each id once, all eager or none; and who may claim it."""
        batch: dict[str, _Waiting] = {}
        size = 0
        here = self._queue[0].here
        room = 0 if here is None else here.room()
        most = min(MAX_ROWS, room) if room > 0 else MAX_ROWS
        while self._queue and len(batch) < most and size < MAX_BYTES:
            head = self._queue[0]
            if head.start.id in batch or head.here is not here:
                break
            if head.start.dedup is not None:
                keys = {(w.start.queue, w.start.dedup) for w in batch.values()}
                if (head.start.queue, head.start.dedup) in keys:
                    break
            batch[head.start.id] = self._queue.popleft()
            size += len(head.start.input)
        return list(batch.values()), here.eager if here is not None and room > 0 else None

    async def _flush(self, batch: list[_Waiting], eager: Eager | None) -> None:
        starts = [w.start for w in batch]
        try:
            reply = await self._link.retry(lambda c: self._workflows.start(c, starts, eager))
            conflicts = await self._conflicts(starts, reply) if reply.existing else {}
        except RowRejected as error:
            await self._bisect(batch, eager, str(error))
            return
        except Exception as error:  # noqa: BLE001
            for waiting in batch:
                _fail(waiting, error)
            return
        self._started(starts, reply)
        for waiting in batch:
            start = waiting.start
            if conflict := conflicts.get(start.id):
                _fail(waiting, conflict)
            elif holder := reply.duplicates.get(start.id):
                _fail(waiting, DuplicateWorkflowError(start.dedup or "", holder))
            elif not waiting.done.done():
                waiting.done.set_result(waiting.start.id not in reply.existing)

    async def _bisect(self, batch: list[_Waiting], eager: Eager | None, reason: str) -> None:
        if len(batch) == 1 and batch[0].start.dedup is not None and not batch[0].again:
            # Another start with the same key committed in between: the next look finds its holder.
            batch[0].again = True
            await self._flush(batch, eager)
            return
        if len(batch) == 1:
            _fail(
                batch[0],
                PayloadError(f"workflow {batch[0].start.id!r}: the database refuses it: {reason}"),
            )
            return
        middle = len(batch) // 2
        await self._flush(batch[:middle], eager)
        await self._flush(batch[middle:], eager)

    async def _conflicts(self, starts: list[Start], reply: Started) -> dict[str, Exception]:
        async def fetch(connection: Connection) -> dict[str, tuple[str, bytes]]:
            return await self._workflows.inputs(connection, sorted(reply.existing))

        found = await self._link.retry(fetch)
        return {
            s.id: error
            for s in starts
            if s.id in found and (error := difference(s, self._encoding, *found[s.id]))
        }


def difference(start: Start, encoding: Encoding, name: str, body: bytes) -> Exception | None:
    """An error if the recorded workflow is another one than the one to be started, or if that cannot be told."""
    if name != start.name:
        return WorkflowConflictError(start.id, f"is of workflow {name!r}, not {start.name!r}")
    try:
        recorded, given = (encoding.input(each, start.id, name) for each in (body, start.input))
    except PayloadError as error:
        return error
    if not _same(recorded, given):
        return WorkflowConflictError(
            start.id, f"has the input {_brief(recorded)}, not {_brief(given)}"
        )
    return None


def _same(one: bytes, other: bytes) -> bool:
    """Whether two JSON texts say the same, also when another language wrote one of them."""
    return one == other or bool(msgspec.json.decode(one) == msgspec.json.decode(other))


def _brief(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return text if len(text) <= 200 else f"{text[:200]}…"


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
