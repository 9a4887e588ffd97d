"""Starts, committed in groups: one batch in flight, whatever arrives meanwhile goes into the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from everstep.client.grouped import MAX_BYTES, MAX_ROWS, Grouped, Waiting
from everstep.encoding import Encoding
from everstep.errors import DuplicateWorkflowError, PayloadError, WorkflowConflictError
from everstep.store.connection import Connection, Link, RowRejected
from everstep.store.models import Start, Started
from everstep.store.start_rows import Eager
from everstep.store.workflows import Workflows


@dataclass(frozen=True, slots=True)
class Here:
    """A worker in this process, which may begin at once what is started: as many as it has room for now."""

    eager: Eager
    room: Callable[[], int]
    begin: Callable[[list[Start]], None]
    hint: Callable[[], None]
    """There may be something for it to claim."""


@dataclass(eq=False, slots=True)
class _Asked:
    start: Start
    here: Here | None
    again: bool = False


_Waiting = Waiting[_Asked, bool]


class Starter(Grouped[_Asked, bool]):
    """Queue of starts. Every start resolves to whether the workflow is new, or to its error."""

    def __init__(
        self,
        link: Link,
        workflows: Workflows,
        encoding: Encoding,
        *,
        started: Callable[[list[Start], Started], None],
    ) -> None:
        super().__init__()
        self._encoding = encoding
        self._link = link
        self._workflows = workflows
        self._started = started
        self._eager: Eager | None = None
        """Who may claim the batch in flight."""

    async def start(self, start: Start, here: Here | None = None) -> bool:
        """Start one workflow. Returns whether it is new; raises WorkflowConflictError if its id is another's."""
        return await self.put(_Asked(start, here))

    def _take(self) -> list[_Waiting]:
        """The next batch: bounded, each id once, all eager or none."""
        batch: dict[str, _Waiting] = {}
        size = 0
        here = self._queue[0].item.here
        room = 0 if here is None else here.room()
        most = min(MAX_ROWS, room) if room > 0 else MAX_ROWS
        while self._queue and len(batch) < most and size < MAX_BYTES:
            head = self._queue[0].item
            if head.start.id in batch or head.here is not here:
                break
            if head.start.dedup is not None:
                keys = {(w.item.start.queue, w.item.start.dedup) for w in batch.values()}
                if (head.start.queue, head.start.dedup) in keys:
                    break
            batch[head.start.id] = self._queue.popleft()
            size += len(head.start.input)
        self._eager = here.eager if here is not None and room > 0 else None
        return list(batch.values())

    async def _flush(self, batch: Sequence[_Waiting]) -> None:
        starts, eager = [w.item.start for w in batch], self._eager
        try:
            reply = await self._link.retry(lambda c: self._workflows.start(c, starts, eager))
            conflicts = await self._conflicts(starts, reply) if reply.existing else {}
        except RowRejected as error:
            await self._bisect(batch, str(error))
            return
        except Exception as error:  # noqa: BLE001
            for waiting in batch:
                waiting.fail(error)
            return
        self._started(starts, reply)
        for waiting in batch:
            start = waiting.item.start
            if conflict := conflicts.get(start.id):
                waiting.fail(conflict)
            elif holder := reply.duplicates.get(start.id):
                waiting.fail(DuplicateWorkflowError(start.dedup or "", holder))
            else:
                waiting.succeed(start.id not in reply.existing)

    async def _bisect(self, batch: Sequence[_Waiting], reason: str) -> None:
        if len(batch) > 1:
            await self._halve(batch)
            return
        asked = batch[0].item
        if asked.start.dedup is not None and not asked.again:
            # Another start with the same key committed in between: the next look finds its holder.
            asked.again = True
            await self._flush(batch)
            return
        batch[0].fail(
            PayloadError(f"workflow {asked.start.id!r}: the database refuses it: {reason}")
        )

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
