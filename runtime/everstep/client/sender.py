"""Messages, sent in groups: one statement puts a batch down, one more wakes all of its receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from everstep.client.grouped import MAX_BYTES, MAX_ROWS, Grouped, Waiting
from everstep.errors import PayloadError
from everstep.store.connection import Link, RowRejected
from everstep.store.messages import Letter, Messages

LATER_SECONDS = (0.01, 0.5)
"""Between two looks at a receiver that somebody holds locked: at first, and at most."""

_Sent = Waiting[Letter, bool | None]


class Sender(Grouped[Letter, bool | None]):
    """Queue of messages. Each resolves to whether its receiver is open, and so woken; None: there is none."""

    def __init__(self, link: Link, messages: Messages) -> None:
        super().__init__()
        self._link = link
        self._messages = messages
        self._late: dict[asyncio.Task[None], Sequence[_Sent]] = {}

    def refuse(self, error: Exception | None) -> None:
        super().refuse(error)
        if error is None:
            return
        for task, sent in self._late.items():
            task.cancel()
            _fail(sent, error)

    def _take(self) -> list[_Sent]:
        """The next batch: bounded, and the keys of each receiver ascending.

        So two clients that send the same keys wait for each other in one order, and cannot deadlock.
        """
        batch: list[_Sent] = []
        last: dict[str, str] = {}
        size = 0
        while self._queue and len(batch) < MAX_ROWS and size < MAX_BYTES:
            letter = self._queue[0].item
            if letter.key is not None:
                if letter.key < last.get(letter.workflow_id, ""):
                    break
                last[letter.workflow_id] = letter.key
            waiting = self._queue.popleft()
            if not waiting.done.cancelled():
                batch.append(waiting)
                size += len(letter.body)
        return batch

    async def _flush(self, batch: Sequence[_Sent]) -> None:
        letters = [waiting.item for waiting in batch]
        try:
            receivers = await self._link.retry(lambda c: self._messages.send(c, letters))
            for waiting in batch:
                if not receivers.get(waiting.item.workflow_id):
                    waiting.succeed(receivers.get(waiting.item.workflow_id))
            missed = await self._wake([w for w in batch if receivers.get(w.item.workflow_id)])
        except RowRejected as error:
            await self._reject(batch, str(error))
        except Exception as error:  # noqa: BLE001
            _fail(batch, error)
        else:
            if missed:
                task = self._loop.create_task(self._wake_later(missed))
                self._late[task] = missed
                task.add_done_callback(self._late.pop)

    async def _reject(self, batch: Sequence[_Sent], reason: str) -> None:
        if len(batch) > 1:
            await self._halve(batch)
            return
        to = batch[0].item.workflow_id
        batch[0].fail(PayloadError(f"message to {to!r}: the database refuses it: {reason}"))

    async def _wake(self, sent: Sequence[_Sent]) -> list[_Sent]:
        """Wake the receivers that nobody holds locked. Returns what was sent to the others.

        Waiting for one would hold up all others of the batch, and whoever needs one of these.
        """
        ids = sorted({waiting.item.workflow_id for waiting in sent})
        if not ids:
            return []
        missed = set(await self._link.retry(lambda c: self._messages.wake_free(c, ids)))
        for waiting in sent:
            if waiting.item.workflow_id not in missed:
                waiting.succeed(True)
        return [waiting for waiting in sent if waiting.item.workflow_id in missed]

    async def _wake_later(self, sent: Sequence[_Sent]) -> None:
        pause, longest = LATER_SECONDS
        try:
            while sent:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                sent = await self._wake(sent)
        except Exception as error:  # noqa: BLE001
            _fail(sent, error)


def _fail(batch: Sequence[_Sent], error: Exception) -> None:
    for waiting in batch:
        waiting.fail(error)
