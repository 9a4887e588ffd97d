"""Whether the schema in the database is one this code can work with."""

from __future__ import annotations

from psycopg import errors

from everstep.errors import SchemaError
from everstep.migrations.known import newest_known
from everstep.store.connection import Connection
from everstep.store.statements import in_schema


async def check_schema(connection: Connection, schema: str) -> None:
    """Raise SchemaError if the engine's schema is missing, too old or too new."""
    query = "SELECT max(number) AS number FROM everstep.migration WHERE origin = 'engine'"
    try:
        cursor = await connection.execute(in_schema(query, schema).encode())
        row = await cursor.fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise missing(schema) from None
    compare(None if row is None else row.number, schema)


def compare(found: int | None, schema: str) -> None:
    """Raise SchemaError unless the schema's number is the one this code knows."""
    known = newest_known()
    if found is None:
        raise missing(schema)
    if found < known:
        raise SchemaError(
            f"schema {schema!r} is too old: it is at {found}, this code needs {known}. Run `everstep migrate`."
        )
    if found > known:
        raise SchemaError(
            f"schema {schema!r} is too new: it is at {found}, this code knows {known}. Install a newer everstep."
        )


def missing(schema: str) -> SchemaError:
    return SchemaError(
        f"there is no engine schema {schema!r} in this database. Run `everstep migrate`, "
        f"or name the right one with EVERSTEP_SCHEMA."
    )
