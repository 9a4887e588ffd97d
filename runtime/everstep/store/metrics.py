"""Statements of metrics.sql: the fold of deltas into totals, and what the sampler asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncClientCursor

from everstep.store.connection import Connection
from everstep.store.statements import statements

FOLD_ROWS = 20_000
STATEMENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Total:
    """A row of metric_total: how often, and for how long together."""

    kind: int
    queue: str
    name: str
    outcome: int
    bucket: int
    n: int
    seconds: float

    @property
    def key(self) -> tuple[int, str, str, int, int]:
        return self.kind, self.queue, self.name, self.outcome, self.bucket


class MetricRows:
    """The statements of metrics.sql. `timeout`: seconds a statement may take on the server."""

    def __init__(self, schema: str, *, timeout: float = STATEMENT_SECONDS) -> None:
        self._sql = statements(schema)
        self._limit = b"SET LOCAL statement_timeout = %d; " % round(timeout * 1000)

    async def fold(self, connection: Connection, limit: int = FOLD_ROWS) -> int:
        """Move up to `limit` deltas into the totals. Returns how many."""
        cursor = await self._within_limit(connection, "metrics_fold", {"limit": limit})
        row = await cursor.fetchone()
        assert row is not None
        return row.folded  # type: ignore[no-any-return]

    async def totals(self, connection: Connection) -> list[Total]:
        cursor = await self._within_limit(connection, "metrics_totals")
        return [Total(*row) for row in await cursor.fetchall()]

    async def gauge(self, connection: Connection, statement: str) -> list[Mapping[str, Any]]:
        """The rows of a gauge's statement, as columns by name."""
        cursor = await self._within_limit(connection, statement)
        return [row._asdict() for row in await cursor.fetchall()]

    async def _within_limit(
        self, connection: Connection, statement: str, arguments: dict[str, object] | None = None
    ) -> Any:
        # One message, one transaction: a worker frozen in the middle of it holds no lock and no horizon.
        cursor = AsyncClientCursor(connection, row_factory=connection.row_factory)
        await cursor.execute(self._limit + self._sql[statement], arguments)
        cursor.nextset()
        return cursor
