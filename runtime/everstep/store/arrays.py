"""Columns of a batch as Postgres arrays in binary form, built with as little work per value as Python allows.

A group commit sends some twenty arrays of up to 300 values; the driver's general list dumper, which looks at
each value's type, would take half of a worker's time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain, repeat

from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NULL = b"\xff\xff\xff\xff"


class Column:
    """An array parameter: its binary form."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class SmallInts(Column):
    """smallint[] without nulls."""

    __slots__ = ()

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(_fixed(values, 21, 2, "h"))


class Ints(Column):
    """integer[] without nulls."""

    __slots__ = ()

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(_fixed(values, 23, 4, "i"))


class Reals(Column):
    """real[] without nulls."""

    __slots__ = ()

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(_fixed(values, 700, 4, "f"))


class Floats(Column):
    """double precision[] without nulls."""

    __slots__ = ()

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(_fixed(values, 701, 8, "d"))


class BigInts(Column):
    """bigint[]; None is null."""

    __slots__ = ()

    def __init__(self, values: Sequence[int | None]) -> None:
        pack = struct.Struct(">q").pack
        super().__init__(_varying([None if v is None else pack(v) for v in values], 20))


class Jsons(Column):
    """jsonb[] of JSON texts; None is null."""

    __slots__ = ()

    def __init__(self, values: Sequence[str | None]) -> None:
        # The leading byte is the version of jsonb's binary form.
        super().__init__(
            _varying([None if v is None else b"\x01" + v.encode() for v in values], 3802)
        )


class Texts(Column):
    """text[]; None is null."""

    __slots__ = ()

    def __init__(self, values: Sequence[str | None]) -> None:
        encoded = [None if v is None else v.encode() for v in values]
        super().__init__(_varying(encoded, 25))


class Byteas(Column):
    """bytea[]; None is null."""

    __slots__ = ()

    def __init__(self, values: Sequence[bytes | None]) -> None:
        super().__init__(_varying(values, 17))


class Timestamps(Column):
    """timestamptz[]; None is null."""

    __slots__ = ()

    def __init__(self, values: Sequence[datetime | None]) -> None:
        encoded = [None if v is None else _microseconds(v) for v in values]
        super().__init__(_varying(encoded, 1184))


def _microseconds(value: datetime) -> bytes:
    since = value - _POSTGRES_EPOCH
    return struct.pack(">q", (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _header(count: int, oid: int, *, nulls: bool) -> bytes:
    # dimensions, has-nulls, element type; then length and lower bound of the one dimension
    if count == 0:
        return struct.pack(">iiI", 0, 0, oid)
    return struct.pack(">iiIii", 1, nulls, oid, count, 1)


def _fixed(values: Sequence[float], oid: int, width: int, code: str) -> bytes:
    count = len(values)
    head = _header(count, oid, nulls=False)
    if _alike(values):
        return head + struct.pack(">i" + code, width, values[0]) * count
    pairs = chain.from_iterable(zip(repeat(width, count), values, strict=True))
    return head + struct.pack(">" + ("i" + code) * count, *pairs)


def _varying(values: Sequence[bytes | None], oid: int) -> bytes:
    head = _header(len(values), oid, nulls=None in values)
    if _alike(values):
        return head + _cell(values[0]) * len(values)
    return head + b"".join([_cell(value) for value in values])


def _cell(value: bytes | None) -> bytes:
    return _NULL if value is None else len(value).to_bytes(4, "big") + value


def _alike(values: Sequence[object]) -> bool:
    """Most columns of a commit hold one value over and over: nothing, the first epoch, the name of a step."""
    return len(values) > 0 and values.count(values[0]) == len(values)


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        return obj.body


_OIDS: dict[type[Column], int] = {
    SmallInts: 1005,
    Ints: 1007,
    BigInts: 1016,
    Jsons: 3807,
    Reals: 1021,
    Floats: 1022,
    Texts: 1009,
    Byteas: 1001,
    Timestamps: 1185,
}


def register(context: AdaptContext) -> None:
    """Teach a connection to send these columns."""
    for kind, oid in _OIDS.items():
        dumper: type[Dumper] = type(f"{kind.__name__}Dumper", (_ColumnDumper,), {"oid": oid})
        context.adapters.register_dumper(kind, dumper)
