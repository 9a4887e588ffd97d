"""Statements of worker.sql: a worker's row, its lease, and tickets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import psycopg

from everstep.store.connection import Connection
from everstep.store.statements import statements


class WorkerState(IntEnum):
    """Stored in worker.state; it only ever grows."""

    LIVE = 1
    DRAINING = 2
    DEAD = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """Another worker's lease, as the database sees it now."""

    worker_id: UUID
    until: datetime
    expired: bool


@dataclass(frozen=True, slots=True)
class Routing:
    """Which version unpinned workflows go to."""

    current: str | None
    ramping: str | None
    percent: int
    revision: int


class Workers:
    """The statements of worker.sql, as one worker speaks them."""

    def __init__(self, schema: str, me: UUID) -> None:
        self._sql = statements(schema)
        self._me = me

    async def register(
        self, connection: Connection, *, pod: str, version: str, slots: int, ttl: float
    ) -> datetime:
        """Insert this worker's row. Returns the database's time."""
        arguments = {"me": self._me, "pod": pod, "version": version, "slots": slots, "ttl": ttl}
        cursor = await connection.execute(self._sql["register"], arguments)
        row = await cursor.fetchone()
        assert row is not None
        return row.at  # type: ignore[no-any-return]

    async def adopt_routing(self, connection: Connection, version: str) -> None:
        """Make `version` current where no version ever was."""
        try:
            await connection.execute(self._sql["adopt_routing"], {"version": version})
        except psycopg.DatabaseError as error:
            if error.sqlstate != "EV409":
                raise
            # Another worker was first.

    async def routing(self, connection: Connection) -> Routing:
        cursor = await connection.execute(self._sql["routing"])
        row = await cursor.fetchone()
        assert row is not None
        return Routing(*row)

    async def leases(self, connection: Connection) -> list[Lease]:
        """Leases of all workers that are not dead."""
        cursor = await connection.execute(self._sql["leases"])
        return [Lease(*row) for row in await cursor.fetchall()]

    async def set_state(self, connection: Connection, state: WorkerState) -> None:
        await connection.execute(self._sql["set_state"], {"me": self._me, "state": int(state)})

    async def declare_dead(self, connection: Connection, suspects: Sequence[UUID]) -> list[str]:
        """Declare those suspects dead whose lease has run out. Returns their pods."""
        cursor = await connection.execute(self._sql["declare_dead"], {"suspects": list(suspects)})
        return [row.pod for row in await cursor.fetchall()]

    async def take_ticket(self, connection: Connection, task: str, every: float) -> bool:
        """Whether it is this worker's turn to run a task that is due once per `every` seconds."""
        arguments = {"me": self._me, "task": task, "every": every}
        cursor = await connection.execute(self._sql["take_ticket"], arguments)
        return await cursor.fetchone() is not None

    async def hold_ticket(self, connection: Connection, task: str, ttl: float) -> bool:
        """Whether this worker holds, or now takes, a ticket that lasts `ttl` seconds unless renewed."""
        arguments = {"me": self._me, "task": task, "ttl": ttl}
        cursor = await connection.execute(self._sql["hold_ticket"], arguments)
        return await cursor.fetchone() is not None

    async def drop_tickets(self, connection: Connection) -> None:
        await connection.execute(self._sql["drop_ticket"], {"me": self._me})

    async def forget_workers(self, connection: Connection) -> None:
        """Delete rows of workers that have been dead for a day and own nothing."""
        await connection.execute(self._sql["forget_workers"])
