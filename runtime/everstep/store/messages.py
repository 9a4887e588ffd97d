"""Statements of message.sql: messages, events, and other workflows' outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everstep.store.connection import Connection
from everstep.store.models import Ending, EventInfo, Outcome, Seen
from everstep.store.statements import statements


class Messages:
    """The statements of message.sql."""

    def __init__(self, schema: str) -> None:
        self._sql = statements(schema)

    async def send(
        self,
        connection: Connection,
        workflow_id: str,
        topic: str,
        *,
        codec: int,
        body: bytes,
        key: str | None,
    ) -> bool:
        """Put a message down. Returns False if the workflow has finished or does not exist."""
        arguments = {"id": workflow_id, "topic": topic, "codec": codec, "body": body, "key": key}
        cursor = await connection.execute(self._sql["send"], arguments)
        row = await cursor.fetchone()
        assert row is not None
        return bool(row.open)

    async def wake(self, connection: Connection, ids: Sequence[str]) -> int:
        """Tell workflows that something happened to them. Returns how many became claimable."""
        cursor = await connection.execute(self._sql["wake"], {"ids": list(ids)})
        row = await cursor.fetchone()
        return 0 if row is None else int(row.woken)

    async def wake_forgotten(self, connection: Connection) -> int:
        """Wake waiting workflows whose waker died before it could. Returns how many."""
        cursor = await connection.execute(self._sql["wake_forgotten"], {})
        row = await cursor.fetchone()
        return 0 if row is None else int(row.woken)

    async def peek_message(
        self, connection: Connection, workflow_id: str, topic: str, taken: Sequence[int]
    ) -> Seen | None:
        """The oldest message not taken yet; None: the workflow is no longer open."""
        arguments = {"id": workflow_id, "topic": topic, "taken": list(taken)}
        cursor = await connection.execute(self._sql["peek_message"], arguments)
        row = await cursor.fetchone()
        if row is None:
            return None
        return Seen(row.signals, n=row.n, codec=row.codec or 0, body=row.body)

    async def watch(self, connection: Connection, workflow_id: str, waiter: str) -> None:
        """Ask that `waiter` be woken when another workflow publishes or finishes."""
        await connection.execute(self._sql["watch"], {"id": workflow_id, "waiter": waiter})

    async def peek_outcome(
        self, connection: Connection, workflow_id: str, target: str
    ) -> Seen | None:
        """Another workflow's outcome; None: this workflow is no longer open."""
        arguments = {"id": workflow_id, "target": target}
        cursor = await connection.execute(self._sql["peek_outcome"], arguments)
        row = await cursor.fetchone()
        if row is None:
            return None
        outcome = None
        if row.known and row.status:
            outcome = Outcome(
                target, row.name, Ending(row.status), row.codec, row.output, row.error
            )
        return Seen(row.signals, known=row.known, finished=outcome is not None, outcome=outcome)

    async def peek_event(
        self, connection: Connection, workflow_id: str, target: str, key: str
    ) -> Seen | None:
        """Another workflow's event; None: this workflow is no longer open."""
        arguments = {"id": workflow_id, "target": target, "key": key}
        cursor = await connection.execute(self._sql["peek_event"], arguments)
        row = await cursor.fetchone()
        if row is None:
            return None
        finished = bool(row.status)
        return Seen(
            row.signals, known=row.known, finished=finished, codec=row.codec or 0, body=row.body
        )

    async def read_stream(
        self, connection: Connection, workflow_id: str, key: str, after: int
    ) -> tuple[list[tuple[int, bytes | None]], bool] | None:
        """Values written after a place, and whether the workflow has finished. None: no such workflow."""
        arguments = {"id": workflow_id, "key": key, "after": after}
        cursor = await connection.execute(self._sql["read_stream"], arguments)
        rows = await cursor.fetchall()
        if not rows:
            return None
        return [(row.n, row.body) for row in rows if row.n is not None], rows[0].finished

    async def events(self, connection: Connection, workflow_id: str) -> list[EventInfo] | None:
        """All events of a workflow, by name. None: no such workflow."""
        cursor = await connection.execute(self._sql["events"], {"id": workflow_id})
        rows = await cursor.fetchall()
        if not rows:
            return None
        return [
            EventInfo(row.key, msgspec.json.decode(row.body), row.set_at)
            for row in rows
            if row.key is not None
        ]

    async def event(self, connection: Connection, workflow_id: str, key: str) -> Seen:
        """An event, for readers outside of a workflow."""
        cursor = await connection.execute(self._sql["event"], {"id": workflow_id, "key": key})
        row = await cursor.fetchone()
        if row is None:
            return Seen(0, known=False)
        return Seen(0, finished=bool(row.status), codec=row.codec or 0, body=row.body)
