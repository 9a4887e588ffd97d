"""Deltas become totals exactly once, whoever folds, however it ends."""

import asyncio
from collections import Counter

import psycopg
import pytest
from support.waiting import eventually

from everstep.metrics.catalogue import BOUNDS, Query
from everstep.store.connection import Connection, Link, Passing, connect
from everstep.store.metrics import MetricRows

INSERT = """
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 3, 'q' || i %% 3, 'w' || i %% 5, 1 + i %% 4, i %% 19, 1, 0.5 FROM generate_series(%s::int, %s::int) AS i
"""


async def insert(connection: Connection, first: int, last: int) -> None:
    await connection.execute(INSERT, [first, last])


def totals(sql) -> Counter[tuple]:
    rows = sql("SELECT queue, name, outcome, bucket, n FROM everstep.metric_total")
    return Counter({(r.queue, r.name, r.outcome, r.bucket): r.n for r in rows})


def expected(count: int) -> Counter[tuple]:
    return Counter((f"q{i % 3}", f"w{i % 5}", 1 + i % 4, i % 19) for i in range(1, count + 1))


async def test_two_holders_folding_at_once_count_each_delta_once(database, sql):
    rows = MetricRows("everstep")
    batches, size = 60, 50
    async with (
        await connect(database, "one") as one,
        await connect(database, "other") as other,
        await connect(database, "writer") as writer,
    ):
        writing = asyncio.create_task(write(writer, batches, size))
        folded = sum(
            await asyncio.gather(
                fold_while(rows, one, writing, limit=40), fold_while(rows, other, writing, limit=70)
            )
        )
        await writing
        while n := await rows.fold(one):
            folded += n
    assert folded == batches * size
    assert totals(sql) == expected(batches * size)
    assert sql.one("SELECT count(*) FROM everstep.metric_delta") == 0
    assert sql.one("SELECT sum(seconds) FROM everstep.metric_total") == 0.5 * batches * size


async def write(connection: Connection, batches: int, size: int) -> None:
    for batch in range(batches):
        await insert(connection, batch * size + 1, (batch + 1) * size)


async def fold_while(
    rows: MetricRows, connection: Connection, writing: asyncio.Task[None], *, limit: int
) -> int:
    folded = 0
    while not writing.done():
        folded += await rows.fold(connection, limit)
        await asyncio.sleep(0)
    return folded


async def test_a_holder_killed_in_the_middle_of_a_fold_loses_nothing(database, sql):
    rows = MetricRows("everstep", timeout=60)
    async with await connect(database, "writer") as writer:
        await insert(writer, 1, 300)
        assert await rows.fold(writer) == 300
        await insert(writer, 1, 200)
    doomed = Link(database, "doomed")
    with psycopg.connect(database) as blocker:
        # The fold has deleted its deltas and waits for this row to add them to.
        blocker.execute("SELECT FROM everstep.metric_total WHERE bucket = 18 FOR UPDATE")
        folding = asyncio.create_task(doomed.call(rows.fold))
        pid = await eventually(lambda: waiting_backend(sql))
        assert sql.one("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(Passing):
            await folding
    await doomed.close()
    assert totals(sql) == expected(300)
    heir = Link(database, "heir")
    assert await heir.call(rows.fold) == 200
    await heir.close()
    assert totals(sql) == expected(300) + expected(200)


def waiting_backend(sql) -> int | None:
    found = sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'doomed' AND wait_event_type = 'Lock'"
    )
    return found[0].pid if found else None


async def test_a_holder_folds_around_what_another_has_under_way(database, sql):
    rows = MetricRows("everstep", timeout=60)
    async with await connect(database, "writer") as writer:
        await insert(writer, 1, 100)
    with psycopg.connect(database) as other:
        other.execute("DELETE FROM everstep.metric_delta WHERE bucket < 9")
        left = sql.one("SELECT count(*) FROM everstep.metric_delta WHERE bucket >= 9")
        link = Link(database, "holder")
        assert await link.call(rows.fold) == left
        other.rollback()
        assert await link.call(rows.fold) == 100 - left
        await link.close()
    assert totals(sql) == expected(100)


async def test_a_statement_of_the_sampler_ends_at_its_time_limit(database, sql):
    link = Link(database, "sampler")
    with psycopg.connect(database) as migration:
        migration.execute("LOCK TABLE everstep.queue IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Passing, match="statement timeout"):
            async with asyncio.timeout(30):
                await link.call(
                    lambda c: MetricRows("everstep", timeout=0.1).gauge(c, Query.QUEUES)
                )
    assert await link.call(lambda c: MetricRows("everstep").gauge(c, Query.QUEUES)) == []
    await link.close()


async def test_the_engine_sorts_durations_into_the_buckets_that_are_shown(sql):
    assert sql.one("SELECT everstep.bucket(0)") == 0
    for index, bound in enumerate(BOUNDS):
        assert sql.one("SELECT everstep.bucket(%s)", [bound * 0.999]) == index
        assert sql.one("SELECT everstep.bucket(%s)", [bound * 1.001]) == index + 1
