"""Named statements from the `.sql` files beside this module, rewritten once for the schema in use."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from everstep.settings import checked_schema

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statements(schema: str) -> dict[str, bytes]:
    """All statements by name, written for `schema`."""
    found: dict[str, bytes] = {}
    for source in sorted(files("everstep.store").joinpath("sql").iterdir(), key=lambda f: f.name):
        if source.name.endswith(".sql") and source.name != "fsck.sql":
            pieces = _NAME.split(source.read_text())[1:]
            for name, text in zip(pieces[::2], pieces[1::2], strict=True):
                if name in found:
                    raise AssertionError(f"two statements are named {name}")
                found[name] = in_schema(text, schema).strip().encode()
    return found


def in_schema(text: str, schema: str) -> str:
    """SQL written with the literal name `everstep.`, for another schema."""
    checked_schema(schema)
    if schema == "everstep":
        return text
    text = text.replace(
        "CREATE SCHEMA IF NOT EXISTS everstep;", f"CREATE SCHEMA IF NOT EXISTS {schema};"
    )
    return re.sub(r"\beverstep\.(?=\w)", f"{schema}.", text)
