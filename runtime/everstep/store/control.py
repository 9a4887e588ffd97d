"""Statements of control.sql: what a person decides about queues and versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from everstep.store.connection import Connection
from everstep.store.statements import statements


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue and the open workflows on it."""

    queue: str
    paused: bool
    ready: int
    delayed: int
    running: int
    waiting: int
    oldest_ready_at: datetime | None
    max_running: int | None


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version of the code, its live workers, and the open workflows pinned to it."""

    version: str
    state: str
    workers: int
    running: int
    queued: int
    parked: int
    created_at: datetime
    oldest: datetime | None
    next_wake: datetime | None


class Control:
    """The statements of control.sql."""

    def __init__(self, schema: str) -> None:
        self._sql = statements(schema)

    async def queues(self, connection: Connection) -> list[QueueInfo]:
        cursor = await connection.execute(self._sql["control_queues"])
        return [QueueInfo(*row) for row in await cursor.fetchall()]

    async def pause(
        self, connection: Connection, names: Sequence[str], *, paused: bool
    ) -> list[str]:
        """Pause or resume queues. Returns those of the names that there are."""
        arguments = {"names": list(names), "paused": paused}
        cursor = await connection.execute(self._sql["control_pause"], arguments)
        return [row.name for row in await cursor.fetchall()]

    async def versions(self, connection: Connection) -> list[VersionInfo]:
        cursor = await connection.execute(self._sql["control_versions"])
        return [VersionInfo(*row) for row in await cursor.fetchall()]

    async def promote(self, connection: Connection, version: str) -> None:
        """Make a version the current one, whatever the routing was."""
        await connection.execute(self._sql["control_promote"], {"version": version})
