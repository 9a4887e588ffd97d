"""Statements of message.sql: messages, events, and other workflows' outcomes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from everstep.encoding import PLAIN, Encoding, PayloadPlace, event_of, message_to, written_to
from everstep.store.arrays import BigInts, Byteas, Texts
from everstep.store.carried import rows_under
from everstep.store.connection import Connection
from everstep.store.infos import EventInfo
from everstep.store.models import Ending, Outcome, Seen
from everstep.store.shown import event_shown
from everstep.store.statements import statements


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way; its body as it is stored.

    `own_key`: what it has in place of a key that the sender did not give, so that a repeated statement meets itself.
    """

    workflow_id: str
    topic: str
    body: bytes
    key: str | None
    own_key: str = field(default_factory=lambda: secrets.token_urlsafe(12))


class Messages:
    """The statements of message.sql."""

    def __init__(self, schema: str, encoding: Encoding = PLAIN) -> None:
        self._sql = statements(schema)
        self._wake_free = self._sql["wake"].replace(b"FOR UPDATE", b"FOR UPDATE SKIP LOCKED")
        self._encoding = encoding

    def letter(self, workflow_id: str, topic: str, body: bytes, key: str | None) -> Letter:
        """A message as it is stored."""
        stored = self._encoding.encode(body, message_to(workflow_id, topic))
        return Letter(workflow_id, topic, stored, key)

    async def send(self, connection: Connection, letters: Sequence[Letter]) -> dict[str, bool]:
        """Put messages down, in this order for each receiver. Returns the receivers that exist: are they open?

        An open one has its message; to one that has finished nothing is sent.
        """
        ordered = sorted(letters, key=lambda letter: letter.workflow_id)
        arguments = {
            "ids": Texts([each.workflow_id for each in ordered]),
            "topics": Texts([each.topic for each in ordered]),
            "keys": Texts([each.own_key if each.key is None else each.key for each in ordered]),
            "codec": self._encoding.id,
            "bodies": Byteas([each.body for each in ordered]),
        }
        cursor = await connection.execute(self._sql["send"], arguments)
        row = await cursor.fetchone()
        assert row is not None
        return {**dict.fromkeys(row.open, True), **dict.fromkeys(row.finished, False)}

    async def wake(self, connection: Connection, ids: Sequence[str]) -> int:
        """Tell workflows that something happened to them. Returns how many became claimable."""
        cursor = await connection.execute(self._sql["wake"], {"ids": Texts(ids)})
        row = await cursor.fetchone()
        return 0 if row is None else int(row.woken)

    async def wake_free(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """The same without waiting for those that somebody holds locked. Returns these."""
        cursor = await connection.execute(self._wake_free, {"ids": Texts(ids)})
        row = await cursor.fetchone()
        return [] if row is None else row.missed

    async def wake_forgotten(self, connection: Connection) -> int:
        """Wake waiting workflows whose waker died before it could. Returns how many."""
        # It reads all that waits, which looks dear enough to be compiled: that takes longer by far.
        (row,) = await rows_under(
            connection, b"SET LOCAL jit = off; ", self._sql["wake_forgotten"], {}
        )
        return int(row.woken)

    async def watch(self, connection: Connection, pairs: Sequence[tuple[str, str]]) -> None:
        """Pairs of a workflow and a waiter, which asks to be woken when the first publishes or finishes."""
        ids, waiters = zip(*pairs, strict=True)
        await connection.execute(self._sql["watch"], {"ids": Texts(ids), "waiters": Texts(waiters)})

    async def peek_messages(
        self, connection: Connection, asked: Sequence[tuple[str, str]], taken: Sequence[int]
    ) -> list[Seen | None]:
        """For pairs of a workflow and a topic the oldest message not taken yet; None: no longer open."""
        ids, topics = zip(*asked, strict=True)
        arguments = {"ids": Texts(ids), "topics": Texts(topics), "taken": BigInts(taken)}
        cursor = await connection.execute(self._sql["peek_message"], arguments)
        return _answers(
            len(asked),
            await cursor.fetchall(),
            lambda row: Seen(row.signals, **_value(row), n=row.n),
        )

    async def peek_outcomes(
        self, connection: Connection, asked: Sequence[tuple[str, str]]
    ) -> list[Seen | None]:
        """For pairs of a workflow and another one the other's outcome; None: the first is no longer open."""
        ids, targets = zip(*asked, strict=True)
        arguments = {"ids": Texts(ids), "targets": Texts(targets)}
        cursor = await connection.execute(self._sql["peek_outcome"], arguments)

        def seen(row: Any) -> Seen:
            outcome = None
            if row.known and row.status:
                target = targets[row.question - 1]
                outcome = Outcome(
                    target, row.name, Ending(row.status), row.codec, row.output, row.error
                )
            finished = outcome is not None
            return Seen(row.signals, known=row.known, finished=finished, outcome=outcome)

        return _answers(len(asked), await cursor.fetchall(), seen)

    async def peek_events(
        self, connection: Connection, asked: Sequence[tuple[str, str, str]]
    ) -> list[Seen | None]:
        """For a workflow, another one and a name the event published; None: the first is no longer open."""
        ids, targets, keys = zip(*asked, strict=True)
        arguments = {"ids": Texts(ids), "targets": Texts(targets), "keys": Texts(keys)}
        cursor = await connection.execute(self._sql["peek_event"], arguments)

        def seen(row: Any) -> Seen:
            finished = bool(row.status)
            return Seen(row.signals, known=row.known, finished=finished, **_value(row))

        return _answers(len(asked), await cursor.fetchall(), seen)

    async def read_stream(
        self, connection: Connection, workflow_id: str, key: str, after: int
    ) -> tuple[list[tuple[int, bytes | None]], bool] | None:
        """Values written after a place, and whether the workflow has finished. None: no such workflow."""
        arguments = {"id": workflow_id, "key": key, "after": after}
        cursor = await connection.execute(self._sql["read_stream"], arguments)
        rows = await cursor.fetchall()
        if not rows:
            return None
        return [
            (row.n, self._opened(row.body, written_to(workflow_id, key, row.branch, row.seq)))
            for row in rows
            if row.n is not None
        ], rows[0].finished

    async def events(self, connection: Connection, workflow_id: str) -> list[EventInfo] | None:
        """All events of a workflow, by name. None: no such workflow."""
        cursor = await connection.execute(self._sql["events"], {"id": workflow_id})
        rows = await cursor.fetchall()
        if not rows:
            return None
        return [
            event_shown(workflow_id, row.key, row.body, row.set_at, self._encoding)
            for row in rows
            if row.key is not None
        ]

    async def event(self, connection: Connection, workflow_id: str, key: str) -> Seen:
        """An event, for readers outside of a workflow."""
        cursor = await connection.execute(self._sql["event"], {"id": workflow_id, "key": key})
        row = await cursor.fetchone()
        if row is None:
            return Seen(0, known=False)
        body = self._opened(row.body, event_of(workflow_id, key))
        return Seen(0, finished=bool(row.status), codec=row.codec or 0, body=body)

    def _opened(self, body: bytes | None, place: PayloadPlace) -> bytes | None:
        return None if body is None else self._encoding.decode(body, place)


def _value(row: Any) -> dict[str, Any]:
    return {"codec": row.codec or 0, "body": row.body}


def _answers(count: int, rows: Iterable[Any], seen: Callable[[Any], Seen]) -> list[Seen | None]:
    """In the order of the questions, which are numbered from 1."""
    answers: list[Seen | None] = [None] * count
    for row in rows:
        answers[row.question - 1] = seen(row)
    return answers
