"""Statements of doctor.sql, and which of the engine's statements this role may not run."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import conninfo

from everstep.store.connection import Connection, connect_arguments
from everstep.store.statements import statements

_PARAMETER = re.compile(rb"%\((\w+)\)s")


def readable(url: str) -> str:
    """The connection string for a look only: a standby will do. Raises UsageError."""
    connect_arguments(url, "")
    if "target_session_attrs" in conninfo.conninfo_to_dict(url):
        return url
    return conninfo.make_conninfo(url, target_session_attrs="any")


class Diagnosis:
    """What doctor asks of a database, over one connection."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._sql = statements(schema)

    async def ask(self, connection: Connection, name: str, **arguments: float) -> list[Any]:
        """The rows of one statement of doctor.sql."""
        cursor = await connection.execute(self._sql[f"doctor_{name}"], arguments)
        return await cursor.fetchall()

    async def refused(self, connection: Connection) -> dict[str, str]:
        """Names of statements that would fail, and why. Explained, never run: that checks privileges too."""
        found: dict[str, str] = {}
        cursor = psycopg.AsyncClientCursor(connection)
        for name, text in self._sql.items():
            nothing = dict.fromkeys(word.decode() for word in _PARAMETER.findall(text))
            try:
                await cursor.execute(b"EXPLAIN " + text, nothing)
            except psycopg.ProgrammingError as error:
                found[name] = str(error).splitlines()[0]
        return found
