"""Whether the schema in the database is one this code can work with.

Code needs all the migrations it brings. Newer ones do no harm where the schema says so: each migration leaves in
the ledger the oldest code that may run on it (docs/internals/rollout.md).
"""

from __future__ import annotations

from psycopg import errors

from everstep.errors import SchemaError
from everstep.store.connection import Connection
from everstep.store.statements import in_schema


async def check_schema(connection: Connection, schema: str, known: int) -> None:
    """Raise SchemaError if the engine's schema is missing, too old or too new for code that knows `known`."""
    query = (
        "SELECT max(number) AS number, max(coalesce(oldest_code, number)) AS oldest_code "
        "FROM everstep.migration WHERE origin = 'engine'"
    )
    try:
        cursor = await connection.execute(in_schema(query, schema).encode())
        row = await cursor.fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise missing(schema) from None
    if row is None or row.number is None:
        raise missing(schema)
    compare(schema, row.number, row.oldest_code, known)


def compare(schema: str, found: int, oldest_code: int, known: int) -> None:
    """Raise SchemaError unless a schema at `found` has all that code which knows `known` needs, and lets it run."""
    if found < known:
        raise SchemaError(
            f"schema {schema!r} is too old: it is at {found}, this code needs {known}. Run `everstep migrate`."
        )
    if oldest_code > known:
        raise SchemaError(
            f"schema {schema!r} is too new: it is at {found} and needs code that knows {oldest_code}, "
            f"this code knows {known}. Install a newer everstep."
        )


def missing(schema: str) -> SchemaError:
    return SchemaError(
        f"there is no engine schema {schema!r} in this database. Run `everstep migrate`, "
        f"or name the right one with EVERSTEP_SCHEMA."
    )
