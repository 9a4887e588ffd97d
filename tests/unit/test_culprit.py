"""One bad row among many: it is found in few statements, and all the others are committed once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from everstep.engine.culprit import NEVER, commit_around
from everstep.store.connection import RowRejected

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Database:
    """Refuses every batch that holds a bad id."""

    def __init__(self, bad: set[str]) -> None:
        self.bad = bad
        self.committed: list[str] = []
        self.refused: list[str] = []
        self.statements = 0

    async def commit(self, ids: set[str]) -> datetime:
        self.statements += 1
        if found := ids & self.bad:
            raise RowRejected(f"refused {min(found)}")
        self.committed += ids
        return NOW

    def refuse(self, id_: str, reason: str) -> None:
        assert reason.startswith("refused")
        self.refused.append(id_)

    async def take(self, ids: list[str]) -> datetime:
        """What a committer does with a group."""
        try:
            return await self.commit(set(ids))
        except RowRejected as error:
            return await commit_around(ids, str(error), self.commit, self.refuse)


IDS = [f"w{n:03}" for n in range(300)]


async def test_one_among_three_hundred_is_found_in_eleven_statements_wherever_it_is():
    for bad in IDS:
        database = Database({bad})
        assert await database.take(IDS) == NOW
        assert database.refused == [bad]
        assert sorted(database.committed) == [id_ for id_ in IDS if id_ != bad]
        assert database.statements <= 11


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
async def test_every_bad_one_is_refused_and_every_good_one_committed_once(rng, share):
    for _ in range(30):
        ids = IDS[: rng.randint(1, 300)]
        bad = {id_ for id_ in ids if rng.random() < share}
        database = Database(bad)
        await database.take(ids)
        assert sorted(database.refused) == sorted(bad)
        assert sorted(database.committed) == sorted(set(ids) - bad)
        assert database.statements <= 1 + 5 * len(ids)


async def test_where_all_are_refused_nothing_has_been_committed():
    database = Database(set(IDS))
    assert await database.take(IDS) == NEVER
    assert len(database.refused) == 300
