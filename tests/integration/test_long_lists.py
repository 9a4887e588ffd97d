"""A list of the newest workflows where there are many: it reads a few of them, and says the same as without a short cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.database import Sql

from everstep import Client, Filter
from everstep.encoding import PLAIN
from everstep.store.connection import connect
from everstep.store.workflows import Workflows

FINISHED, OPEN = 20_000, 2_000

HISTORY = f"""
INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at, status, version, finished_at, finished_epoch)
SELECT 'old-' || i, 'w', 'q', 1, '{{}}', now() - interval '60 days' + i * interval '2 minutes', 1, 'v1', now(), 1
  FROM generate_series(1, {FINISHED}) i;
INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
SELECT 'open-' || i, 'w', 'q', 1, '{{}}', now() - interval '30 minutes' + i * interval '1 ms'
  FROM generate_series(1, {OPEN}) i;
INSERT INTO everstep.run (id, name, queue, state, ready_at)
SELECT 'open-' || i, 'w', 'q', 1, now() FROM generate_series(1, {OPEN}) i;
SELECT brin_summarize_new_values('everstep.workflow_created');
ANALYZE everstep.workflow, everstep.run"""

READ = """
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
 WHERE schemaname = 'everstep' AND relname = 'workflow'"""


@pytest.fixture
def history(sql: Sql) -> None:
    for statement in HISTORY.split(";"):
        sql(statement)


@pytest.mark.no_fsck
@pytest.mark.usefixtures("history")
async def test_the_newest_are_found_without_reading_all_there_ever_was(database: str):
    async with await connect(database, "test") as connection, connection.transaction():
        found = await Workflows("everstep").list_workflows(connection, Filter(), 20, PLAIN)
        assert [info.id for info in found] == [f"open-{OPEN - n}" for n in range(20)]
        row = await (await connection.execute(READ.encode())).fetchone()
        assert row is not None
        assert row[0] < FINISHED / 2


async def test_a_list_is_the_newest_however_far_back_they_are(client: Client, sql: Sql):
    now = datetime.now(UTC)
    ages = [timedelta(seconds=s) for s in (5, 50, 70, 3_000, 4_000, 80_000, 90_000, 10**7)]
    for n, age in enumerate(ages):
        sql(
            "INSERT INTO everstep.workflow (id, name, queue, codec, input, error, created_at, status, "
            "finished_at, finished_epoch) VALUES (%s, %s, 'q', 1, '{}', '{}', %s, 3, %s, 0)",
            [f"w-{n}", "even" if n % 2 == 0 else "odd", now - age, now],
        )
    for limit in range(1, 10):
        ids = [info.id for info in await client.list(limit=limit)]
        assert ids == [f"w-{n}" for n in range(8)][:limit]
        odd = [info.id for info in await client.list(Filter(name="odd"), limit=limit)]
        assert odd == [f"w-{n}" for n in (1, 3, 5, 7)][:limit]
    since = Filter(since=now - timedelta(hours=1))
    assert [info.id for info in await client.list(since)] == [f"w-{n}" for n in range(4)]
