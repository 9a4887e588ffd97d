"""The heartbeat's statement, spoken synchronously by its thread."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from everstep.store.connection import connect_arguments
from everstep.store.statements import statements


@dataclass(frozen=True, slots=True)
class Beat:
    """A renewed lease: the database's time, and the workflows of this worker to be cancelled."""

    at: datetime
    cancels: list[str]


class BeatError(Exception):
    """The beat did not reach the database, or its reply did not come back."""


class HeartbeatConnection:
    """The heartbeat's own connection, opened when needed and dropped when it fails."""

    def __init__(self, url: str, schema: str, me: UUID, ttl: float) -> None:
        self._arguments = connect_arguments(url, "everstep heartbeat")
        self._arguments["connect_timeout"] = max(2, int(ttl / 3))
        self._sql = statements(schema)["beat"]
        self._me, self._ttl = me, ttl
        self._connection: psycopg.Connection[Any] | None = None

    def beat(self) -> Beat | None:
        """Renew the lease. None: this worker was declared dead. Raises BeatError."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    **self._arguments,
                    autocommit=True,
                    row_factory=namedtuple_row,
                    prepare_threshold=None,
                )
            row = self._connection.execute(self._sql, {"me": self._me, "ttl": self._ttl}).fetchone()
        except Exception as error:
            # Also a process without memory or descriptors, for as long as that lasts: the thread must not end of it.
            self.close()
            raise BeatError(" ".join(str(error).split()) or type(error).__name__) from error
        return None if row is None else Beat(row.at, row.cancels)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
