"""Another database than the engine's, for tests of transactions on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from support.database import Sql, fresh_database
from support.server import Server


@dataclass(frozen=True)
class Elsewhere:
    """Its name, its address, and a session of the test's own in it."""

    name: str
    url: str
    sql: Sql

    @property
    def booked(self) -> list[int]:
        return sorted(row[0] for row in self.sql("SELECT n FROM booked"))


@contextmanager
def another_database(server: Server) -> Iterator[Elsewhere]:
    """With a table `booked` that takes each number once."""
    with fresh_database(server, template=None) as name:
        sql = Sql(server.url(name))
        sql("CREATE TABLE booked (n int UNIQUE)")
        yield Elsewhere(name, server.url(name), sql)
        sql.close()
