"""Statements planned while a table was empty, or nearly: what they read when it no longer is.

Postgres keeps what it knew of a table until the next autoanalyze, a minute later; a worker plans once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from support.database import Sql
from support.protocol import add_checkpoint, add_ending, add_park

from everstep.codec import JSON
from everstep.store.connection import Connection, connect
from everstep.store.messages import Messages
from everstep.store.models import CheckpointKind, CommitBatch, Lane, Start
from everstep.store.queues import LimitedClaims
from everstep.store.runs import Runs
from everstep.store.workers import Workers
from everstep.store.workflows import Workflows

ROWS = 2_000
FEW = 20
ENOUGH = 500
"""Rows that a statement about FEW of them may read."""

ME, DEAD = UUID(int=1), UUID(int=2)

Call = Callable[[Connection], Awaitable[Any]]

WORKERS = """
INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) VALUES
    (%(me)s, 'me', 'v1', 1, 9, now(), now() + interval '1 hour'),
    (%(dead)s, 'dead', 'v1', 3, 9, now(), now() - interval '2 days')"""

# As a queue that has run dry leaves it: pages, and no rows.
RUN_DRY = """
INSERT INTO everstep.run (id, name, queue, state, ready_at)
SELECT 'gone' || i, 'w', 'default', 1, now() FROM generate_series(1, 300) i;
DELETE FROM everstep.run"""

OPEN = """
WITH w AS (
    INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
    SELECT %(kind)s || i, 'w', %(queue)s, 1, '{}', now() FROM generate_series(1, %(count)s) i RETURNING id)
INSERT INTO everstep.run (id, name, version, queue, state, ready_at, worker_id, wait_key, epoch)
SELECT id, 'w', 'v1', %(queue)s, %(state)s, now() - interval '1 minute', %(worker)s, %(key)s, 1 FROM w"""

HISTORY = """
INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec, output,
                                 seconds, recorded_at)
SELECT 'ready' || i, '', 1, 1, 'step', %(me)s, 1, 1, 1, '1', 0, now() FROM generate_series(1, %(count)s) i;
INSERT INTO everstep.message (workflow_id, topic, idempotency, codec, body, sent_at)
SELECT 'ready' || i, 't', 'k', 1, '1', now() FROM generate_series(1, %(count)s) i"""

READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
 WHERE schemaname = 'everstep'"""


def ids(kind: str) -> list[str]:
    return [f"{kind}{number}" for number in range(1, FEW + 1)]


def batch(kind: str) -> CommitBatch:
    """Checkpoints of what this worker runs, and what else `kind` says."""
    rows = CommitBatch()
    for id_ in ids(kind):
        talks = CheckpointKind.SEND if kind == "sends" else CheckpointKind.STEP
        add_checkpoint(rows, id_, 1, ("", 1), kind=talks)
        if kind == "sends":
            rows.c_target[-1] = "ready1"
        if kind == "takes":
            rows.c_kind[-1], rows.c_name[-1], rows.c_message[-1] = CheckpointKind.RECEIVE, "t", 1
        if kind == "ends":
            add_ending(rows, id_, 1)
        if kind == "parks":
            add_park(rows, id_, 1)
    return rows


def statements() -> dict[str, Call]:
    """Each about FEW rows, and about others than the rest are."""
    runs, messages = Runs("everstep", ME, "v1"), Messages("everstep")
    workflows, workers = Workflows("everstep"), Workers("everstep", ME)
    limited = LimitedClaims("everstep", ME, "v1")
    return {
        **{f"commit {kind}": commit(runs, kind) for kind in ("ends", "parks", "sends", "takes")},
        "claim": lambda c: runs.claim(c, Lane("default", 1), names=["w"], cursor=None, limit=FEW),
        "claim limited": lambda c: limited.claim(
            c, "narrow", names=["w"], cursors=[None] * 4, limit=FEW
        ),
        "claim a limited suspect": lambda c: limited.claim(
            c, "narrow", names=["w"], cursors=[None] * 4, limit=1, suspect=True
        ),
        "verdicts": lambda c: runs.verdicts(c, [(id_, 1) for id_ in ids("ready")]),
        "release strays": lambda c: runs.release_strays(c, ids("strays")),
        "sweep": lambda c: runs.sweep(c, 9, b"{}"),
        "sweep and bury": lambda c: runs.sweep(c, 0, b"{}"),
        "bury": lambda c: runs.bury(c, 9, b"{}"),
        "forget workers": workers.forget_workers,
        "send": lambda c: messages.send(
            c, [messages.letter(id_, "t", b"1", None) for id_ in ids("ready")]
        ),
        "wake": lambda c: messages.wake(c, ids("waits")),
        "watch": lambda c: messages.watch(c, [(id_, "ready1") for id_ in ids("waits")]),
        "start": lambda c: workflows.start(c, [start(id_) for id_ in ids("new")]),
        "outcomes": lambda c: workflows.outcomes(c, ids("ready")),
        "cancel": lambda c: workflows.cancel(c, [*ids("waits"), *ids("runs")], b"{}"),
        "restart": lambda c: workflows.restart(c, start("failed1")),
        # The last, because it takes what is left.
        "release": runs.release,
    }


def commit(runs: Runs, kind: str) -> Call:
    return lambda c: runs.commit(c, batch(kind))


def start(id_: str) -> Start:
    return Start(id=id_, name="w", queue="other", priority=1, codec=JSON, input=b"{}", dedup=id_)


def fill(sql: Sql) -> None:
    for kind, count, state, worker in (
        ("ready", ROWS, 1, None),
        *((kind, FEW, 2, ME) for kind in ("ends", "parks", "sends", "takes", "strays", "runs")),
        ("lost", FEW, 2, DEAD),
        ("dead", FEW, 2, DEAD),
        ("waits", FEW, 3, None),
        ("failed", 1, 1, None),
    ):
        values = {"kind": kind, "count": count, "state": state, "worker": worker}
        sql(OPEN, {**values, "queue": "default", "key": "message:t" if state == 3 else None})
    values = {"kind": "narrow", "count": FEW, "state": 1, "worker": None, "key": None}
    sql(OPEN, {**values, "queue": "narrow"})
    sql("UPDATE everstep.run SET crashes = 20 WHERE id IN ('ready7', 'ready8')")
    sql("UPDATE everstep.workflow SET status = 2, finished_at = now() WHERE id = 'failed1'")
    sql("DELETE FROM everstep.run WHERE id = 'failed1'")
    for statement in HISTORY.split(";"):
        sql(statement, {"me": ME, "count": ROWS})


async def read_by(connection: Connection, call: Call) -> int:
    """How many rows a statement reads in all tables."""
    async with connection.transaction():
        before = await rows_read(connection)
        await call(connection)
        return await rows_read(connection) - before


async def rows_read(connection: Connection) -> int:
    row = await (await connection.execute(READ.encode(), prepare=False)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def early(sql: Sql) -> Sql:
    """Tables as statistics know them that were made too early: empty."""
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    sql("""SELECT everstep.set_queue('narrow', '{"max_running": 100}'),
                  everstep.declare_queue('default', NULL, 'v1')""")
    sql(WORKERS, {"me": ME, "dead": DEAD})
    sql("ALTER TABLE everstep.run SET (autovacuum_enabled = off)")
    sql("ALTER TABLE everstep.workflow SET (autovacuum_enabled = off)")
    sql("VACUUM (TRUNCATE false, ANALYZE)")
    return sql


@pytest.mark.no_fsck
@pytest.mark.parametrize("tables", ["empty", "run dry"])
async def test_no_statement_reads_tables_that_have_grown_since_it_was_planned(
    tables: str, database: str, early
):
    if tables == "run dry":
        early(RUN_DRY)
        early("VACUUM (TRUNCATE false, ANALYZE)")
    async with await connect(database, "planned early", by_index=True) as connection:
        await Workflows("everstep").start(connection, [])
        for name, call in statements().items():
            if name != "start":
                await call(connection)
        fill(early)
        read = {name: await read_by(connection, call) for name, call in statements().items()}
    assert {name: rows for name, rows in read.items() if rows > ENOUGH} == {}


@pytest.mark.no_fsck
async def test_nor_does_a_function_that_a_session_behind_a_pooler_has_planned(database: str, early):
    async with await connect(database, "planned early", by_index=True) as connection:
        # As it is behind a pooler: nothing is prepared, no setting stays; what functions have planned does.
        connection.prepare_threshold = None
        await connection.execute("RESET ALL")
        calls = {name: call for name, call in statements().items() if "limited" in name}
        for _ in range(8):
            for call in calls.values():
                await call(connection)
        fill(early)
        read = {name: await read_by(connection, call) for name, call in calls.items()}
    assert {name: rows for name, rows in read.items() if rows > ENOUGH} == {}


@pytest.mark.no_fsck
async def test_nor_does_a_client_that_was_there_early(early, client):
    asked = {name: statements()[name] for name in ("send", "wake", "outcomes", "cancel", "restart")}
    for call in asked.values():
        await client._ask_link.call(call)
    fill(early)
    read: dict[str, int] = {}
    for name, call in asked.items():
        read[name] = await client._ask_link.call(lambda c, call=call: read_by(c, call))
    assert {name: rows for name, rows in read.items() if rows > ENOUGH} == {}


MANY = 60_000

WORKFLOWS_OF_LONG = """
INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
SELECT 'long' || i, 'w', 'default', 1, '{}', now() FROM generate_series(1, %(count)s) i"""

LONG = """
INSERT INTO everstep.run (id, name, queue, state, ready_at)
SELECT 'long' || i, 'w', (ARRAY['default', 'default', 'narrow', 'other'])[i %% 4 + 1], 1,
       now() - interval '1 hour' + i * interval '1 ms' FROM generate_series(1, %(count)s) i"""


@pytest.mark.slow
@pytest.mark.no_fsck
async def test_a_claim_sorts_no_long_queue(early, database: str):
    """Where statistics are good, too: the plan is for a limit that it does not know."""
    early(WORKFLOWS_OF_LONG, {"count": MANY})
    early(LONG, {"count": MANY})
    early("VACUUM ANALYZE everstep.run")
    async with await connect(database, "claims", by_index=True) as connection:
        for name in ("claim", "claim limited"):
            read = await read_by(connection, statements()[name])
            assert (name, read < ENOUGH) == (name, True), read
