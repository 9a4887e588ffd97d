"""Statements of queue.sql: claims of limited queues, declarations from code, and what a person sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from everstep.queues import Queue
from everstep.store.arrays import Jsons, Texts
from everstep.store.connection import Connection
from everstep.store.models import Claimed
from everstep.store.runs import claim_rows
from everstep.store.statements import statements


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue, its limits, and the open workflows on it."""

    queue: str
    paused: bool
    ready: int
    delayed: int
    running: int
    waiting: int
    oldest_ready_at: datetime | None
    worker_concurrency: int | None
    max_running: int | None
    rate: str | None
    partition_max_running: int | None
    partition_rate: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """What a claim of a limited queue came to.

    `newest`: the newest `ready_at` claimed of each priority, of those without a partition. `wait`: seconds until
    the rate lets something through; None if it is not the rate that holds it back. `more`: whether there are
    partitions that were not looked at.
    """

    claimed: list[Claimed]
    newest: dict[int, datetime]
    wait: float | None
    more: bool


class LimitedClaims:
    """Claims of queues with limits or partitions, as one worker makes them."""

    def __init__(self, schema: str, me: UUID, version: str) -> None:
        self._sql = statements(schema)["claim_limited"]
        self._me = me
        self._version = version

    async def claim(
        self,
        connection: Connection,
        queue: str,
        *,
        names: Sequence[str],
        cursors: Sequence[datetime | None],
        limit: int,
        suspect: bool = False,
    ) -> Share | None:
        """Take up to `limit` workflows, as far as the queue's limits allow; None: another worker is claiming.

        `cursors`: per priority, from which `ready_at` on to look among those without a partition.
        """
        arguments = {
            "queue": queue,
            "names": list(names),
            "cursors": list(cursors),
            "limit": limit,
            "suspect": suspect,
            "me": self._me,
            "version": self._version,
        }
        rows = await claim_rows(connection, self._sql, arguments)
        if not rows:
            return None
        taken = [row for row in rows if row.id is not None]
        claimed = [Claimed(*row[:-3]) for row in taken]
        return Share(claimed, _newest(taken), rows[0].wait, rows[0].more)


def _newest(rows: Sequence[Any]) -> dict[int, datetime]:
    newest: dict[int, datetime] = {}
    for row in rows:
        if row.priority is not None:
            newest[row.priority] = max(row.ready_at, newest.get(row.priority, row.ready_at))
    return newest


class Queues:
    """Declarations, limits and pauses."""

    def __init__(self, schema: str) -> None:
        self._sql = statements(schema)

    async def declare(
        self, connection: Connection, version: str, queues: Iterable[str], declared: Iterable[Queue]
    ) -> None:
        """Make known the queues that code uses, and what it declares of some."""
        words: dict[str, str | None] = dict.fromkeys(queues)
        words.update((queue.name, json.dumps(queue.declaration())) for queue in declared)
        arguments = {
            "version": version,
            "queues": Texts(list(words)),
            "declarations": Jsons(list(words.values())),
        }
        await connection.execute(self._sql["declare_queues"], arguments)

    async def forget_partitions(self, connection: Connection) -> None:
        await connection.execute(self._sql["forget_partitions"])

    async def list(self, connection: Connection) -> list[QueueInfo]:
        cursor = await connection.execute(self._sql["list_queues"])
        return [QueueInfo(*row) for row in await cursor.fetchall()]

    async def pause(
        self, connection: Connection, names: Sequence[str], *, paused: bool
    ) -> Sequence[str]:
        """Pause or resume queues. Returns those of the names that there are."""
        arguments = {"names": [*names], "paused": paused}
        cursor = await connection.execute(self._sql["pause_queues"], arguments)
        return [row.name for row in await cursor.fetchall()]

    async def set(self, connection: Connection, name: str, change: Mapping[str, Any]) -> None:
        """Change what `change` names, until the code's declaration changes."""
        arguments = {"name": name, "change": Jsonb(dict(change))}
        await connection.execute(self._sql["set_queue"], arguments)
