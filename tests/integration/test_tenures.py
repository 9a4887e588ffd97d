"""Tenures through trouble: how long a lease is believed, and what a fault of one loop costs the others."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import psycopg
import pytest
from support.proxy import proxy_to
from support.waiting import eventually

from everstep import App, Settings, Worker
from everstep.engine.heartbeat import boottime
from everstep.engine.tenure import Phase
from everstep.store.beats import BeatError, HeartbeatConnection
from everstep.store.runs import Runs


@pytest.fixture
def one_app() -> App:
    app = App("test")

    @app.workflow(name="one")
    async def one() -> int:
        return 1

    return app


@pytest.mark.slow
async def test_a_worker_that_registers_after_a_long_outage_runs_what_it_claims(
    postgres, database, one_app, client, sql
):
    """Its lease begins with the registration, not with the first try at one."""
    ttl = 3.0  # a busy machine may let a worker stand still for a second or two
    with proxy_to(postgres.port) as proxy:
        url = postgres.tcp_url(urlsplit(database).path.strip("/"), proxy.port)
        async with Worker(one_app, Settings(url=url, lease_ttl=ttl, grace=1.0)) as worker:
            first = worker.tenure
            proxy.away = True
            proxy.cut()
            await eventually(lambda: worker.tenure is not first)
            made = worker.tenure.heartbeat.last_tick
            await eventually(lambda: made + ttl < boottime())
            handles = await client.start_many(one_app.workflows["one"], [()] * 300)
            proxy.away = False
            await asyncio.gather(*[handle.result(timeout=30) for handle in handles])
    assert sql("SELECT DISTINCT finished_epoch FROM everstep.workflow") == [(1,)]


async def test_a_beat_that_fails_is_tried_again_while_the_lease_lasts(
    app, worker, client, monkeypatch
):
    monkeypatch.setattr("everstep.engine.heartbeat.BEATS_PER_LEASE", 60)
    failures: list[None] = []
    beaten = asyncio.Event()
    loop = asyncio.get_running_loop()
    beat = HeartbeatConnection.beat

    def failing(self: HeartbeatConnection):
        if len(failures) < 3:
            failures.append(None)
            raise BeatError("cut off")
        loop.call_soon_threadsafe(beaten.set)
        return beat(self)

    monkeypatch.setattr(HeartbeatConnection, "beat", failing)
    running = await worker(lease_ttl=30)
    first = running.tenure
    await asyncio.wait_for(beaten.wait(), 30)
    assert len(failures) == 3
    assert running.tenure is first
    assert first.heartbeat.held()


@pytest.mark.parametrize("error", [MemoryError(), OSError("too many open files")], ids=repr)
async def test_a_beat_that_fails_for_a_reason_of_the_process_is_tried_again(
    one_app, worker, client, monkeypatch, error
):
    """A step may eat all memory or all descriptors for a moment: the thread that beats is not to end of it."""
    monkeypatch.setattr("everstep.engine.heartbeat.BEATS_PER_LEASE", 60)
    failures: list[None] = []
    beaten = asyncio.Event()
    loop = asyncio.get_running_loop()
    execute = psycopg.Connection.execute

    def failing(self: psycopg.Connection, *arguments, **options):
        if self.info.parameter_status("application_name") == "everstep heartbeat":
            if len(failures) < 3:
                failures.append(None)
                raise error
            loop.call_soon_threadsafe(beaten.set)
        return execute(self, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", failing)
    running = await worker(one_app, lease_ttl=30)
    first = running.tenure
    await asyncio.wait_for(beaten.wait(), 30)
    assert len(failures) == 3
    assert running.tenure is first
    assert await (await client.start(one_app.workflows["one"])).result(timeout=30) == 1


async def test_a_schedule_that_cannot_be_computed_harms_nothing_else(
    one_app, worker, client, sql, caplog
):
    await worker(one_app)
    columns = "name, workflow, parameter, queue, every, timezone, catch_up, overlap, declared, app"
    for name, every in (("bad", 1e300), ("good", 3600)):
        sql(
            f"INSERT INTO everstep.schedule ({columns}, routing, next_at) VALUES (%s, 'one', 'tick', 'default', "
            "%s, 'UTC', 'skip', 'allow', '{}', 'another', 0, now())",
            [name, every],
        )
    await eventually(
        lambda: sql.one("SELECT next_at > now() FROM everstep.schedule WHERE name = 'good'")
    )
    await eventually(lambda: "schedule bad stands still" in caplog.text)
    assert await (await client.start(one_app.workflows["one"])).result(timeout=30) == 1
    assert sql.one("SELECT count(*) FROM everstep.worker") == 1


async def test_a_commit_that_may_be_missing_on_the_standby_ends_no_loop(
    one_app, worker, client, monkeypatch, sql
):
    """The notice of a cancelled wait for the standby comes with a claim: whatever came of it, it is looked at anew."""
    running = await worker(one_app)
    link, lanes, told = running.tenure._link, Runs.lanes, asyncio.Event()

    async def doubtful(self, connection, looks):
        link._doubtful = not told.is_set()
        told.set()
        return await lanes(self, connection, looks)

    monkeypatch.setattr(Runs, "lanes", doubtful)
    await asyncio.wait_for(told.wait(), 30)
    assert await (await client.start(one_app.workflows["one"])).result(timeout=30) == 1
    assert sql.one("SELECT count(*) FROM everstep.worker") == 1


@pytest.mark.slow
async def test_a_worker_that_cannot_begin_anew_tries_again(one_app, worker, client, sql):
    running = await worker(one_app, lease_ttl=1.5)
    first = running.tenure
    sql("ALTER TABLE everstep.routing RENAME TO hidden")
    first.lost.set()
    await eventually(lambda: running.tenure is not first and running.tenure.lost.is_set())
    sql("ALTER TABLE everstep.hidden RENAME TO routing")
    await eventually(lambda: running.phase is Phase.LIVE)
    assert await (await client.start(one_app.workflows["one"])).result(timeout=30) == 1
