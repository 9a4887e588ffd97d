"""The statement of a group commit: its parts, left out in every combination, and the arrays it is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.database import Sql

from everstep.store import arrays
from everstep.store.connection import connect
from everstep.store.models import CheckpointKind, CommitBatch
from everstep.store.statements import numbered, statements

PARTS = ("messages", "parks", "starts")
SUBSETS = [frozenset(some) for n in range(4) for some in combinations(PARTS, n)]


@pytest.mark.parametrize("parts", SUBSETS, ids=lambda parts: "+".join(sorted(parts)) or "none")
def test_the_statement_is_whole_whichever_parts_are_left_out(sql: Sql, parts):
    query, names = numbered(statements("everstep")["commit"], parts)
    assert b"-- if" not in query
    assert any(name.startswith("s_") for name in names) == ("starts" in parts)
    assert any(name.startswith("p_") for name in names) == ("parks" in parts)
    assert (b"everstep.message" in query) == ("messages" in parts)
    sql(f"PREPARE whole AS {query.decode()}")


def test_a_batch_asks_for_the_parts_its_rows_need():
    batch = CommitBatch()
    assert batch.parts() == frozenset()
    batch.c_kind.append(CheckpointKind.STEP)
    assert batch.parts() == frozenset()
    batch.c_kind.append(CheckpointKind.SEND)
    batch.p_id.append("one")
    assert batch.parts() == {"messages", "parks"}
    batch.s_id.append("two")
    assert batch.parts() == {"messages", "parks", "starts"}


def _columns(values: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    """Lists of one value over and over, too: they are written another way."""
    return st.one_of(
        st.lists(values, max_size=20),
        st.tuples(values, st.integers(0, 20)).map(lambda pair: [pair[0]] * pair[1]),
    )


_INSTANTS = st.integers(-(10**15), 10**15).map(
    lambda n: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n)
)
KINDS = {
    arrays.SmallInts: st.integers(-(2**15), 2**15 - 1),
    arrays.Ints: st.integers(-(2**31), 2**31 - 1),
    arrays.BigInts: st.none() | st.integers(-(2**63), 2**63 - 1),
    arrays.Reals: st.floats(width=32, allow_nan=False).map(lambda f: f + 0.0),
    arrays.Floats: st.floats(allow_nan=False).map(lambda f: f + 0.0),
    arrays.Texts: st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    arrays.Byteas: st.none() | st.binary(max_size=300),
    arrays.Timestamps: st.none() | _INSTANTS,
}


async def test_columns_arrive_as_they_were_sent(database):
    connection = await connect(database, "test")
    async with connection:
        for kind, values in KINDS.items():
            for sent in _some(_columns(values)):
                cursor = await connection.execute("SELECT %s", [kind(sent)], binary=True)
                row = await cursor.fetchone()
                assert row is not None
                assert row[0] == sent, kind.__name__


def _some(lists: st.SearchStrategy[list[object]]) -> list[list[object]]:
    found: list[list[object]] = []

    @settings(max_examples=40, database=None)
    @given(lists)
    def collect(values: list[object]) -> None:
        found.append(values)

    collect()
    return found
