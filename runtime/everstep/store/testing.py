"""Databases for tests: made from a migrated template, with a clock that can be moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from psycopg import conninfo, errors, sql

from everstep.errors import DatabaseRefusedError
from everstep.migrations.migrate import migrate, open_connection
from everstep.store.arrays import Texts
from everstep.store.connection import Connection
from everstep.store.statements import statements_for_tests


class Databases:
    """Makes and drops databases of one server, whose `url` may do that."""

    def __init__(self, url: str, schema: str = "everstep") -> None:
        self._url = url
        self._schema = schema

    def url_of(self, name: str) -> str:
        """The connection string of one of its databases."""
        return conninfo.make_conninfo(self._url, dbname=name)

    def make_template(self, name: str, folder: Path | None = None) -> None:
        """A database with the engine's schema, the fake clock, and the user's migrations in `folder`."""
        self.make(name)
        migrate(self.url_of(name), self._schema, folder)
        install_clock(self.url_of(name), self._schema)

    def make(self, name: str, template: str | None = None) -> None:
        like = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        query = sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), like)
        with open_connection(self._url) as connection:
            try:
                connection.execute(query)
            except errors.InsufficientPrivilege as error:
                raise DatabaseRefusedError(
                    f"{error.diag.message_primary}. Allow it: ALTER ROLE {connection.info.user} CREATEDB",
                    error.sqlstate,
                ) from None

    def drop(self, name: str) -> None:
        """Drop a database if it is there, whoever is still connected."""
        query = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with open_connection(self._url) as connection:
            connection.execute(query)


def install_clock(url: str, schema: str = "everstep") -> None:
    """Replace the engine's clock in a database by one that can be moved."""
    with open_connection(url) as connection:
        connection.execute(statements_for_tests(schema)["fake_clock"])


@dataclass(frozen=True, slots=True)
class Busy:
    """Something that goes on without the clock being moved: a workflow's id or a schedule's name, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a workflow is: its epoch, what it waits for while parked, and whether that ends by the clock."""

    epoch: int
    wait_key: str | None
    timed: bool


class FakeClock:
    """The statements of testing.sql."""

    def __init__(self, schema: str) -> None:
        self._sql = statements_for_tests(schema)

    async def advance(self, connection: Connection, seconds: float) -> datetime:
        """Move the clock; the database's time from now on. Raises psycopg's error if it is the server's own."""
        cursor = await connection.execute(self._sql["advance_clock"], {"seconds": seconds})
        row = await cursor.fetchone()
        assert row is not None
        return row.at  # type: ignore[no-any-return]

    async def now(self, connection: Connection) -> datetime:
        cursor = await connection.execute(self._sql["clock_now"])
        row = await cursor.fetchone()
        assert row is not None
        return row.at  # type: ignore[no-any-return]

    async def busy(
        self, connection: Connection, names: Sequence[str], queues: Sequence[str]
    ) -> list[Busy]:
        """Some of what goes on by itself."""
        arguments = {"names": Texts(list(names)), "queues": Texts(list(queues))}
        cursor = await connection.execute(self._sql["busy"], arguments)
        return [Busy(*row) for row in await cursor.fetchall()]

    async def pulse(self, connection: Connection) -> int:
        """Another number whenever something has moved."""
        row = await (await connection.execute(self._sql["pulse"])).fetchone()
        assert row is not None
        return int(row.pulse)

    async def next_timer(self, connection: Connection) -> datetime | None:
        """When the next thing happens that only waits for the clock."""
        cursor = await connection.execute(self._sql["next_timer"])
        row = await cursor.fetchone()
        return None if row is None else row.at

    async def standing(self, connection: Connection, workflow_id: str) -> Standing | None:
        """Where an open workflow stands."""
        cursor = await connection.execute(self._sql["standing"], {"id": workflow_id})
        row = await cursor.fetchone()
        return None if row is None else Standing(*row)

    async def bury(self, connection: Connection, worker: UUID) -> None:
        """Declare a worker dead, and let the next sweep be due."""
        await connection.execute(self._sql["bury_worker"], {"id": worker})
