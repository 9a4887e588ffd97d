"""Named statements from the `.sql` files beside this module, rewritten once for the schema in use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from everstep.settings import checked_schema

_PLACE = re.compile(rb"%%|%\((\w+)\)s")
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_CHOICE = re.compile(rb"^-- if (\w+)\n(.*?)^-- end\n", re.MULTILINE | re.DOTALL)

_APART = ("fsck.sql", "elsewhere.sql", "testing.sql")
"""Not of the engine's own work in its own database."""


@cache
def statements(schema: str) -> dict[str, bytes]:
    """All of the engine's statements by name, written for `schema`."""
    folder = files("everstep.store").joinpath("sql")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql"))
    return _named([name for name in names if name not in _APART], schema)


@cache
def statements_elsewhere(schema: str) -> dict[str, bytes]:
    """Those for a schema of another database."""
    return _named(["elsewhere.sql"], schema)


@cache
def statements_for_tests(schema: str) -> dict[str, bytes]:
    """Those for databases made for tests."""
    return _named(["testing.sql"], schema)


def _named(sources: Sequence[str], schema: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for source in sources:
        text = files("everstep.store").joinpath("sql").joinpath(source).read_text()
        pieces = _NAME.split(text)[1:]
        for name, statement in zip(pieces[::2], pieces[1::2], strict=True):
            if name in found:
                raise AssertionError(f"two statements are named {name}")
            found[name] = in_schema(statement, schema).strip().encode()
    return found


@cache
def numbered(
    statement: bytes, parts: frozenset[str] = frozenset()
) -> tuple[bytes, tuple[str, ...]]:
    """A statement with $1, $2 … and the names they stand for, for a raw cursor.

    `parts`: which of the lines between `-- if part` and `-- end` it keeps.

    psycopg remembers how to read statements of up to 4 kB; a longer one it would take apart at every execution.
    """
    statement = _CHOICE.sub(
        lambda found: found[2] if found[1].decode() in parts else b"", statement
    )
    names: list[str] = []

    def place(found: re.Match[bytes]) -> bytes:
        if found[0] == b"%%":
            return b"%"
        name = found[1].decode()
        if name not in names:
            names.append(name)
        return b"$%d" % (names.index(name) + 1)

    return _PLACE.sub(place, statement), tuple(names)


def in_schema(text: str, schema: str) -> str:
    """SQL written with the literal name `everstep.`, for another schema."""
    checked_schema(schema)
    if schema == "everstep":
        return text
    text = text.replace(
        "CREATE SCHEMA IF NOT EXISTS everstep;", f"CREATE SCHEMA IF NOT EXISTS {schema};"
    )
    return re.sub(r"\beverstep\.(?=\w)", f"{schema}.", text)
