"""A database of a test's own, made from a migrated template, and questions to it in plain SQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from everstep.migrations.migrate import migrate
from everstep.store.testing import Databases
from support.server import Server

TEMPLATE = "everstep_template"

_numbers = itertools.count(1)


class Sql:
    """Runs SQL, each statement committed by itself. `one`: the only value of the only row."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)

    def __call__(
        self, query: str, arguments: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[Any]:
        cursor = self.connection.execute(query.encode(), arguments)
        return cursor.fetchall() if cursor.description else []

    def one(self, query: str, arguments: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        (row,) = self(query, arguments)
        (value,) = row
        return value

    def advance_clock(self, seconds: float) -> None:
        """Let the engine's clock go `seconds` ahead of the server's, from now on."""
        self.connection.execute(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql "
                "STABLE PARALLEL SAFE AS 'SELECT statement_timestamp() + {}::interval'"
            ).format(sql.SQL(f"''{seconds:f} seconds''"))
        )

    def close(self) -> None:
        self.connection.close()


def make_template(server: Server) -> None:
    """A database with the engine's schema, to be copied for each test."""
    Databases(server.url()).make(TEMPLATE)
    migrate(server.url(TEMPLATE), "everstep")


@contextmanager
def fresh_database(server: Server, template: str | None = TEMPLATE) -> Iterator[str]:
    """The name of a new database; dropped afterwards, whoever is still connected."""
    name = f"test_{next(_numbers)}"
    databases = Databases(server.url())
    databases.make(name, template)
    try:
        yield name
    finally:
        databases.drop(name)
