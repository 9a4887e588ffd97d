"""Statements of control.sql: what a person decides about versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from everstep.store.connection import Connection
from everstep.store.statements import statements


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

    async def versions(self, connection: Connection) -> list[VersionInfo]:
        cursor = await connection.execute(self._sql["control_versions"])
        return [VersionInfo(*row) for row in await cursor.fetchall()]

    async def promote(self, connection: Connection, version: str) -> None:
        """Make a version the current one, whatever the routing was."""
        await connection.execute(self._sql["control_promote"], {"version": version})
