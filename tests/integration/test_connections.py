"""Connections that are ended, pooled, or refused; rows that the database refuses."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from support.server import Server, free_port
from support.waiting import eventually, eventually_now

import everstep
from everstep import (
    App,
    Client,
    DatabaseUnreachableError,
    SchemaError,
    Settings,
    UsageError,
    Worker,
    WorkflowError,
)
from everstep.errors import DatabaseRefusedError
from everstep.migrations.known import newest_known
from everstep.store import runs
from everstep.store.connection import Link, Passing, connect, pooled
from everstep.store.hints import Channel, Ear
from everstep.store.messages import Messages


async def test_sessions_terminated_again_and_again_lose_nothing(database, app, worker, client, sql):
    @app.step
    async def step(n: int) -> int:
        await asyncio.sleep(0.05)
        return n

    @app.workflow
    async def flow() -> int:
        return sum([await step(n) for n in range(5)])

    await worker(concurrency=50)
    starting = asyncio.gather(*[client.start(flow) for _ in range(400)])
    recorded = "SELECT count(*) FROM everstep.checkpoint"
    for times in range(6):
        await eventually(lambda n=300 * times: sql.one(recorded) >= n, within=60)
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'everstep %%'",
            [],
        )
    async with asyncio.timeout(60):
        results = await asyncio.gather(*[handle.result() for handle in await starting])
    assert results == [10] * 400
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 2_000


async def test_a_row_the_database_refuses_fails_its_workflow_and_no_other(
    database, app, worker, client, sql
):
    """A constraint of the test's own stands in for whatever a database may refuse."""
    sql(
        "ALTER TABLE everstep.checkpoint ADD CONSTRAINT no_thirteen "
        "CHECK (output IS DISTINCT FROM '13'::bytea)"
    )
    gate = asyncio.Event()

    @app.step
    async def step(n: int) -> int:
        await gate.wait()
        return n

    @app.workflow
    async def flow(n: int) -> int:
        return await step(n) + await step(100 + n)

    running = await worker()
    handles = [await client.start(flow, n) for n in range(60)]
    await eventually(lambda: len(running.tenure.runner.executions) == 60)
    gate.set()
    outcomes = await asyncio.gather(
        *[handle.result(timeout=30) for handle in handles], return_exceptions=True
    )
    assert isinstance(outcomes[13], WorkflowError)
    assert "the database refuses what workflow" in str(outcomes[13])
    assert [o for n, o in enumerate(outcomes) if n != 13] == [
        100 + 2 * n for n in range(60) if n != 13
    ]
    assert sql.one("SELECT count(*) FROM everstep.worker") == 1


async def test_an_ending_the_database_refuses_is_an_ending_too(app, worker, client, sql):
    sql(
        "ALTER TABLE everstep.workflow ADD CONSTRAINT no_thirteen "
        "CHECK (output IS DISTINCT FROM '13'::bytea)"
    )

    @app.workflow
    async def flow(n: int) -> int:
        return n

    await worker()
    with pytest.raises(WorkflowError, match="the database refuses"):
        await (await client.start(flow, 13)).result(timeout=30)


async def test_who_waits_for_more_than_one_question_takes_is_answered(
    app, worker, client, monkeypatch
):
    """Those that wait longest do not keep the others from being asked about."""
    monkeypatch.setattr("everstep.client.outcomes.MAX_IDS", 3)

    @app.workflow
    async def flow() -> int:
        return 1

    long = [await client.start(flow, delay=3600) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(handle.result()) for handle in long]
        await eventually(lambda: len(client.outcomes._waiters) == 3)
        await worker()
        assert await (await client.start(flow)).result(timeout=30) == 1
        for task in waiting:
            task.cancel()


async def test_waiting_for_results_ends_when_the_schema_is_gone(database, app, client, sql):
    @app.workflow
    async def flow() -> None: ...

    handle = await client.start(flow)
    waiting = asyncio.ensure_future(handle.result())
    await eventually(lambda: client.outcomes._waiters)
    sql("ALTER TABLE everstep.workflow RENAME TO hidden")
    with pytest.raises(SchemaError):
        await asyncio.wait_for(waiting, 30)
    sql("ALTER TABLE everstep.hidden RENAME TO workflow")


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("postgresql://postgres@127.0.0.1:1/x", DatabaseUnreachableError, "127.0.0.1:1"),
        ("nonsense", UsageError, "malformed"),
        ("postgresql://u:secret@127.0.0.1:1/x", DatabaseUnreachableError, "as u"),
    ],
)
async def test_a_wrong_database_is_an_error_at_once(url, error, words):
    with pytest.raises(error, match=words) as caught:
        async with Client.connect(url):
            pass
    assert "secret" not in str(caught.value)


async def test_a_database_without_the_schema_says_what_to_run(empty_database, app):
    with pytest.raises(SchemaError, match="everstep migrate"):
        async with Client.connect(empty_database):
            pass
    with pytest.raises(SchemaError, match="everstep migrate"):
        async with Worker(app, Settings(url=empty_database)):
            pass


async def test_a_schema_of_another_time_is_refused(database, app, sql):
    for number, words in ((999, "too new"), (0, "too old")):
        sql(
            "UPDATE everstep.migration SET number = %(n)s, oldest_code = %(n)s WHERE number = "
            "(SELECT number FROM everstep.migration ORDER BY started_at DESC LIMIT 1)",
            {"n": number},
        )
        with pytest.raises(SchemaError, match=words):
            async with Client.connect(database):
                pass
    sql(
        "UPDATE everstep.migration SET number = %(n)s, oldest_code = %(n)s WHERE number = 0",
        {"n": newest_known()},
    )


async def test_a_missing_privilege_is_named(database, sql):
    sql(
        "DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN; GRANT USAGE ON SCHEMA everstep TO nobody"
    )
    link = Link(database.replace("postgres@", "nobody@"), "test")
    with pytest.raises(DatabaseRefusedError, match="doctor"):
        await link.call(lambda c: c.execute("SELECT * FROM everstep.run"))
    await link.close()
    sql("DROP OWNED BY nobody; DROP ROLE nobody")


async def test_a_claim_is_ended_by_the_server_when_it_takes_too_long(
    database, app, sql, monkeypatch
):
    """What mark_drained relies on: neither a claim nor a start that claims outlives its time limit."""
    for name in ("everstep.client.base", "everstep.engine.parts"):
        monkeypatch.setattr(f"{name}.CLAIM_TIMEOUT_SECONDS", 0.2)
    worker = Worker(app, Settings(url=database, lease_ttl=30))
    async with worker:
        with psycopg.connect(database) as blocker:
            blocker.execute("LOCK TABLE everstep.run IN ACCESS EXCLUSIVE MODE")
            lane = runs.Lane("default", 1)
            with pytest.raises(Passing, match="statement timeout"):
                await worker.tenure._link.call(
                    lambda c: worker.tenure._runs.claim(
                        c, lane, names=["x"], cursor="-infinity", limit=1
                    )
                )
            with pytest.raises(Passing, match="statement timeout"):
                await worker.client._start_link.call(
                    lambda c: c.execute("SELECT * FROM everstep.run")
                )


async def test_no_transaction_is_left_open_between_messages(database, app, worker, client, sql):
    """A worker that stops in the middle of anything must hold no lock: every write is one message."""
    seen = set()

    @app.step
    async def step() -> None:
        rows = sql(
            "SELECT application_name AS name FROM pg_stat_activity "
            "WHERE state LIKE 'idle in transaction%%' AND datname = current_database()",
            [],
        )
        seen.update(row.name for row in rows)

    @app.workflow
    async def flow() -> None:
        await step()
        await step()

    await worker()
    handles = await asyncio.gather(*[client.start(flow) for _ in range(60)])
    for handle in handles:
        await handle.result(timeout=30)
    assert seen == set()


@pytest.fixture
def pgbouncer(postgres: Server, database: str, tmp_path: Path):
    """The url of the test's database through PgBouncer in transaction mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    folder = postgres.folder / f"bouncer-{port}"
    folder.mkdir()
    if postgres.user:
        shutil.chown(folder, postgres.user)
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 5\nmax_client_conn = 200\n"
        "ignore_startup_parameters = extra_float_digits\n"
        f"logfile = {folder}/log\n"
    )
    (folder / "users").write_text('"postgres" ""\n')
    process = subprocess.Popen(
        [program, str(config)],
        user=postgres.user,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = postgres.tcp_url(urlsplit(database).path.strip("/"), port)

    def answers() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        eventually_now(answers, what=f"PgBouncer answers; {folder}/log")
        yield url
    finally:
        process.terminate()
        process.wait()


async def test_everything_works_through_a_transaction_pooler(pgbouncer, sql):
    app = App("test")

    @app.step
    async def step(n: int) -> int:
        return n

    @app.workflow
    async def flow(n: int) -> int:
        first = await step(n)
        await everstep.sleep(1.2)
        return first + await step(n)

    async with Worker(app, Settings(url=pgbouncer, grace=5)) as worker:
        assert pooled(worker.tenure._link._connection)
        async with Client.connect(pgbouncer) as client:
            handles = await asyncio.gather(*[client.start(flow, n) for n in range(50)])
            handles += await asyncio.gather(*[worker.client.start(flow, n) for n in range(50)])
            async with asyncio.timeout(30):
                results = await asyncio.gather(*[handle.result() for handle in handles])
    assert results == [2 * n for n in range(50)] * 2
    # Three starts and claims that pinned a version did so under a time limit of their own.
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 300


async def test_behind_a_pooler_a_sweep_is_not_compiled_and_leaves_no_setting(pgbouncer):
    messages = Messages("everstep")
    messages._sql = {"wake_forgotten": b"SELECT (current_setting('jit') = 'off')::int AS woken"}
    async with await connect(pgbouncer, "test") as connection, connection.transaction():
        await connection.execute("SET LOCAL jit = on")
        assert await messages.wake_forgotten(connection) == 1
    async with await connect(pgbouncer, "test") as connection:
        cursor = await connection.execute(
            "SELECT source <> 'session' FROM pg_settings WHERE name = 'jit'"
        )
        assert await cursor.fetchall() == [(True,)]


async def test_behind_a_pooler_nobody_listens(pgbouncer):
    """The server's session would go on listening, and its hints would pile up in whichever connection has it next."""
    ear = Ear(pgbouncer, "everstep", {Channel.READY: lambda: None})
    await asyncio.wait_for(ear.run(), 30)
    async with await connect(pgbouncer, "test") as connection:
        cursor = await connection.execute("SELECT * FROM pg_listening_channels()")
        assert await cursor.fetchall() == []


async def test_a_direct_connection_is_not_taken_for_a_pooled_one(database):
    async with await connect(database, "test") as connection:
        assert not pooled(connection)


@pytest.mark.parametrize("by_index", [True, False])
async def test_no_statement_of_ours_is_compiled(database, by_index):
    """With seqscan off, a plan that has to read a table whole is dear enough for Postgres to compile it: a second."""
    async with await connect(database, "test", by_index=by_index) as connection:
        cursor = await connection.execute("SHOW jit")
        assert await cursor.fetchall() == [("off",)]
