"""Workflows that change hands: released, rescued, given up; and workers that lose their lease."""

from __future__ import annotations

import asyncio
import subprocess
import time
from uuid import uuid4

import psycopg
import pytest
from support.fleet import Fleet
from support.ledger import Ledger
from support.protocol import LANE, two_workers
from support.standstill import Standstill
from support.waiting import eventually

import everstep
from everstep import App, Client, WorkflowDeadError
from everstep.engine.sweeper import Timers
from everstep.engine.tenure import Phase
from everstep.store.beats import BeatError, HeartbeatConnection
from everstep.store.connection import Link
from everstep.store.runs import Runs
from everstep.store.workers import Workers


def waiting_app(name: str = "test") -> tuple[App, asyncio.Event, asyncio.Event]:
    """A workflow of two steps; the second one waits for `go`, and says so with `reached`."""
    app, reached, go = App(name), asyncio.Event(), asyncio.Event()

    @app.step(name="first")
    async def first() -> int:
        return 1

    @app.step(name="second")
    async def second() -> int:
        reached.set()
        await go.wait()
        return 2

    @app.workflow(name="flow")
    async def flow() -> list[int]:
        return [await first(), await second()]

    return app, reached, go


async def test_a_stopped_worker_gives_its_workflows_back_uncrashed(client, worker, sql):
    app, reached, _ = waiting_app()
    leaving = await worker(app, grace=0.2)
    handle = await client.start(app.workflows["flow"])
    await reached.wait()
    await leaving.stop()
    row = sql("SELECT state, worker_id, epoch, crashes FROM everstep.run")[0]
    assert tuple(row) == (1, None, 2, 0)
    assert sql.one("SELECT state FROM everstep.worker") == 3
    other, _, go = waiting_app()
    go.set()
    await worker(other)
    assert await handle.result(timeout=30) == [1, 2]
    assert sql.one("SELECT finished_epoch FROM everstep.workflow") == 3


async def test_a_stopped_worker_lets_its_running_step_finish_and_begins_none(client, worker, sql):
    app, reached, go = waiting_app()
    began_another = []

    @app.step(name="third")
    async def third() -> None:
        began_another.append(1)

    @app.workflow(name="long")
    async def long() -> None:
        await app._steps["second"]()
        while True:
            await third()

    leaving = await worker(app, grace=60.0)
    await client.start(long)
    await reached.wait()
    stopping = asyncio.ensure_future(leaving.stop())
    await eventually(lambda: sql.one("SELECT state FROM everstep.worker") == 2)
    go.set()
    await asyncio.wait_for(stopping, 30)
    assert began_another == []
    assert sql("SELECT name FROM everstep.checkpoint") == [("second",)]


async def test_a_stopped_worker_that_is_full_does_not_wait_for_room(client, worker, sql):
    app, reached, _ = waiting_app()
    leaving = await worker(app, concurrency=1, grace=0.2)
    await client.start(app.workflows["flow"])
    await client.start(app.workflows["flow"])
    await reached.wait()
    await asyncio.wait_for(leaving.stop(), 30)
    assert sql("SELECT state FROM everstep.run") == [(1,), (1,)]


async def test_sigterm_releases_and_exits_0(database, sql, tmp_path):
    settings = {"LEDGER": str(tmp_path / "ledger"), "EVERSTEP_GRACE_SECONDS": "0.1"}
    with Fleet(
        database, tmp_path, environment={**settings, "SLOWEST_STEP_SECONDS": "600"}
    ) as fleet:
        fleet.start()
        async with Client.connect(database) as client:
            await client.start_named("three_steps", {"number": 1})
        await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 2"))
        assert fleet.terminate(fleet.workers[0]) == 0
    assert tuple(sql("SELECT state, epoch, crashes FROM everstep.run")[0]) == (1, 2, 0)
    assert sql.one("SELECT state FROM everstep.worker") == 3


async def test_a_killed_workers_workflows_run_elsewhere_within_the_lease_and_five_seconds(
    database, sql, tmp_path
):
    ledger = Ledger(tmp_path / "ledger")
    with Fleet(database, tmp_path, environment={"LEDGER": str(tmp_path / "ledger")}) as fleet:
        fleet.start(1, SLOWEST_STEP_SECONDS="600")
        async with Client.connect(database) as client:
            handles = await asyncio.gather(
                *[client.start_named("three_steps", {"number": n}) for n in range(20)]
            )
            await eventually(
                lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 2") == 20
            )
            victim = fleet.workers[0]
            fleet.start(1, SLOWEST_STEP_SECONDS="0")
            await eventually(lambda: sql.one("SELECT count(*) FROM everstep.worker") == 2)
            with Standstill() as still:
                fleet.kill(victim)
                began = time.monotonic()
                await asyncio.gather(*[handle.result(60) for handle in handles])
                took = time.monotonic() - began - still.seconds
        assert took <= 3 + 5
        assert fleet.died_by_themselves() == []
    assert set(ledger.executions().values()) == {1}
    assert sql.one("SELECT sum(n) FROM everstep.metric_delta WHERE kind = 4") in (20, None)


async def test_a_worker_whose_lease_is_lost_begins_anew_under_another_name(
    client, worker, sql, monkeypatch
):
    app, reached, go = waiting_app()
    running = await worker(app, lease_ttl=0.9)
    first = running.tenure
    handle = await client.start(app.workflows["flow"])
    await reached.wait()
    reached.clear()
    beat = HeartbeatConnection.beat

    def failing(self: HeartbeatConnection):
        if self._me == first.me:
            raise BeatError("cut off")
        return beat(self)

    monkeypatch.setattr(HeartbeatConnection, "beat", failing)
    await eventually(lambda: running.tenure is not first and running.phase is Phase.LIVE)
    await asyncio.wait_for(reached.wait(), 30)
    go.set()
    assert await handle.result(timeout=30) == [1, 2]
    recorded = sql(
        "SELECT name, worker_id = %s AS old FROM everstep.checkpoint ORDER BY seq", [first.me]
    )
    assert recorded == [("first", True), ("second", False)]
    assert sql.one("SELECT state FROM everstep.worker WHERE id = %s", [first.me]) == 3


async def test_a_worker_declared_dead_by_the_operator_begins_anew(client, worker, sql):
    app, reached, go = waiting_app()
    running = await worker(app, lease_ttl=0.9, pod="pod-1")
    first = running.tenure
    handle = await client.start(app.workflows["flow"])
    await reached.wait()
    assert sql.one("SELECT everstep.declare_dead('pod-1')") == 1
    await eventually(lambda: running.tenure is not first and running.phase is Phase.LIVE)
    go.set()
    assert await handle.result(timeout=30) == [1, 2]


async def test_a_dead_workers_runs_are_rescued_though_nobody_swept_when_it_died(
    client, worker, sql
):
    """Level-triggered: whoever comes later finds them."""
    app, _, go = waiting_app()
    go.set()
    handle = await client.start(app.workflows["flow"])
    sql(
        "WITH k AS (INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
        "VALUES (gen_random_uuid(), 'gone', 'unversioned', 3, 1, now(), now()) RETURNING id) "
        "UPDATE everstep.run SET state = 2, epoch = 1, version = 'unversioned', worker_id = k.id FROM k"
    )
    await worker(app)
    assert await handle.result(timeout=30) == [1, 2]


async def test_runs_of_a_worker_whose_row_is_gone_are_rescued(client, worker, sql):
    app, _, go = waiting_app()
    go.set()
    handle = await client.start(app.workflows["flow"])
    sql(
        "UPDATE everstep.run SET state = 2, epoch = 1, version = 'unversioned', worker_id = gen_random_uuid()"
    )
    await worker(app)
    assert await handle.result(timeout=30) == [1, 2]


async def test_a_worker_whose_lease_ran_out_while_it_was_frozen_begins_no_effect(
    database, worker, sql, monkeypatch
):
    """`held` is asked before every effect: nothing begins on a lease that ran out."""
    app = App("test")
    effects = []
    reached, go = asyncio.Event(), asyncio.Event()

    @app.workflow
    async def flow() -> None:
        reached.set()
        await go.wait()
        await effect()

    @app.step
    async def effect() -> None:
        effects.append(running.tenure.me)

    running = await worker(app, lease_ttl=30)
    first = running.tenure
    handle = await running.client.start(flow)
    await reached.wait()
    # As after a freeze: the lease ran out by our own clock, and the thread has not noticed yet.
    first.heartbeat.deadline = 0
    go.set()
    await eventually(lambda: handle.id not in first.runner.executions)
    assert effects == []
    first.heartbeat.deadline = 1e12
    sql("UPDATE everstep.run SET state = 1, worker_id = NULL, epoch = epoch + 1")
    running.tenure.claimer.hint()
    await handle.result(timeout=30)
    assert len(effects) == 1


async def test_a_workflow_that_kills_its_workers_is_given_up_and_takes_nobody_with_it(
    database, sql, tmp_path
):
    ledger = Ledger(tmp_path / "ledger")
    environment = {
        "LEDGER": str(tmp_path / "ledger"),
        "EVERSTEP_MAX_CRASHES": "4",
        "EVERSTEP_LEASE_SECONDS": "6",
        "SLOWEST_STEP_SECONDS": "0.1",
    }
    with Fleet(database, tmp_path, environment=environment) as fleet:
        fleet.start(2)
        async with Client.connect(database) as client:
            poison = await client.start_named("kills_its_worker", {}, id="poison")
            innocents = await asyncio.gather(
                *[client.start_named("three_steps", {"number": n}) for n in range(40)]
            )

            async def replace(worker: subprocess.Popen[bytes]) -> None:
                while True:
                    await asyncio.to_thread(worker.wait)
                    fleet.replace(worker, sql)
                    worker = fleet.workers[-1]

            nurses = [asyncio.ensure_future(replace(worker)) for worker in fleet.workers]
            try:
                async with asyncio.timeout(180):
                    with pytest.raises(
                        WorkflowDeadError, match="crashed its worker more than 4 times"
                    ):
                        await poison.result()
                    await asyncio.gather(*[handle.result() for handle in innocents])
            except TimeoutError:
                print(fleet.logs())
                raise
            finally:
                for nurse in nurses:
                    nurse.cancel()
    # Four crashes are forgiven, the fifth is the last.
    assert ledger.executions()["poison:1"] == 5
    assert sql.one("SELECT count(*) FROM everstep.workflow WHERE status = 1") == 40


async def test_what_crashed_too_often_is_given_up_by_the_statement_that_frees_it(
    app, client, worker, sql, database
):
    """Nobody can claim it once more in between; and where it cannot be given up, the others are freed all the same."""

    @app.workflow
    async def crashes() -> None:
        pass

    for id_ in ("w", "innocent"):
        await client.start(crashes, id=id_)
    sql(
        "WITH k AS (INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
        "VALUES (gen_random_uuid(), 'dead', 'v', 3, 1, now(), now()) RETURNING id) "
        "UPDATE everstep.run r SET state = 2, epoch = 9, version = 'v', worker_id = k.id, "
        "crashes = CASE r.id WHEN 'w' THEN 3 ELSE 0 END FROM k"
    )
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM everstep.workflow WHERE id = 'w' FOR UPDATE")
        await worker(lease_ttl=1.5, max_crashes=3)
        await eventually(
            lambda: sql("SELECT 1 FROM everstep.run WHERE id = 'innocent' AND state = 1")
        )
        assert sql.one("SELECT state FROM everstep.run WHERE id = 'w'") == 2
    await eventually(lambda: sql.one("SELECT status FROM everstep.workflow WHERE id = 'w'") == 4)
    assert sql.one("SELECT finished_epoch FROM everstep.workflow WHERE id = 'w'") == 10


async def test_a_sweep_leaves_no_transaction_open(app, client, worker, sql, monkeypatch):
    """A worker whose event loop is blocked in the middle of it holds no lock."""

    @app.workflow
    async def flow() -> None:
        pass

    await client.start(flow, delay=3600)
    sql(
        "UPDATE everstep.run SET state = 2, epoch = 1, wake_at = NULL, worker_id = gen_random_uuid()"
    )
    open_transactions: list[int] = []
    sweep = Runs.sweep

    async def watched(*args):
        freed = await sweep(*args)
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
        open_transactions.append(sql.one(idle))
        return freed

    monkeypatch.setattr(Runs, "sweep", watched)
    await worker(lease_ttl=1.5)
    await eventually(lambda: sql.one("SELECT state FROM everstep.run") == 1)
    await eventually(lambda: len(open_transactions) > 1)
    assert set(open_transactions) == {0}


async def test_all_who_are_due_are_woken_in_one_turn(app, client, sql, database):
    """After a downtime they are many."""

    @app.workflow
    async def flow() -> None:
        pass

    await client.start_many(flow, [()] * 1_200, delay=3600)
    sql("UPDATE everstep.run SET wake_at = now()")
    link, me = Link(database, "test"), uuid4()
    announced: list[None] = []
    timers = Timers(
        link,
        Runs("everstep", me, "v"),
        Workers("everstep", me),
        schema="everstep",
        announce=lambda: announced.append(None),
        stir=lambda _: None,
    )
    assert await timers.run_once() == 1_200
    assert len(announced) == 3
    await link.close()


async def test_a_run_that_somebody_holds_locked_stops_no_timer_and_no_claim(
    app, client, worker, sql, database
):
    """A start in a user's own transaction may hold one for hours."""

    @app.workflow
    async def flow() -> None:
        pass

    @app.workflow
    async def sender() -> None:
        await everstep.send("held", 1)

    await client.start(flow, id="late", delay=3600)
    await client.start(flow, id="held", delay=3600)
    sql("UPDATE everstep.run SET deadline = now() WHERE id = 'late'")
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM everstep.run FOR UPDATE")
        await worker()
        await (await client.start(sender)).result(timeout=30)
        await (await client.start(flow, delay=0.1)).result(timeout=30)
    await eventually(lambda: sql.one("SELECT status FROM everstep.workflow WHERE id = 'late'") == 3)
    await eventually(lambda: sql.one("SELECT signals FROM everstep.run WHERE id = 'held'") == 1)


async def test_a_worker_that_is_never_idle_waits_for_a_suspect_only_for_a_while(
    client, worker, sql, monkeypatch
):
    """Its steps may last for hours, and others have work too."""
    monkeypatch.setattr("everstep.engine.suspects.DRAIN_SECONDS", 0.3)
    app, reached, go = waiting_app()

    @app.workflow
    async def flow() -> int:
        return 1

    running = await worker(app)
    long = await client.start(app.workflows["flow"])
    await reached.wait()
    suspects = running.tenure.claimer._suspects
    suspects._patience, suspects._due = 0.0, 0.0
    suspect = await client.start(flow, id="suspect", delay=3600)
    sql("UPDATE everstep.run SET state = 1, crashes = 3, wake_at = NULL WHERE id = 'suspect'")
    await eventually(lambda: suspects._due > 0.0)
    assert await (await client.start(flow)).result(timeout=30) == 1
    go.set()
    assert await long.result(timeout=30) == [1, 2]
    assert await suspect.result(timeout=30) == 1


async def test_a_suspect_is_found_without_reading_those_before_it(app, client, sql, database):
    @app.workflow
    async def flow() -> None:
        pass

    await client.start_many(flow, [()] * 3_000)
    sql(
        "UPDATE everstep.run SET crashes = 3, ready_at = now() WHERE id = (SELECT max(id) FROM everstep.run)"
    )
    sql("ANALYZE everstep.run")
    read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'run_ready'"
    async with two_workers(database, lambda statements: statements) as (one, _):
        await one.execute("SELECT pg_stat_force_next_flush()")
        before = sql.one(read)
        (claimed,) = await one.runs.claim(
            one.session, LANE, names=[flow.name], cursor=None, limit=1, suspect=True
        )
        await one.execute("SELECT pg_stat_force_next_flush()")
        assert claimed.crashes == 3
        assert sql.one(read) - before < 100


async def test_suspects_are_claimed_one_at_a_time_and_alone(client, worker, sql):
    app = App("test")
    together: list[set[str]] = []
    here: set[str] = set()
    innocents = asyncio.Barrier(6)

    @app.step
    async def work() -> None:
        here.add(everstep.workflow_id())
        together.append(set(here))
        if everstep.workflow_id().startswith("i"):
            await innocents.wait()
        else:
            await asyncio.sleep(0.02)  # time for somebody to join, wrongly
        here.discard(everstep.workflow_id())

    @app.workflow
    async def flow() -> None:
        await work()

    ids = [(await client.start(flow, id=f"s{n}")).id for n in range(3)]
    ids += [(await client.start(flow, id=f"i{n}")).id for n in range(6)]
    sql("UPDATE everstep.run SET crashes = 3 WHERE id LIKE 's%'")
    await worker(app)
    for id_ in ids:
        await client.handle(flow, id_).result(timeout=30)
    for company in together:
        if any(id_.startswith("s") for id_ in company):
            assert len(company) == 1


async def test_a_workflow_that_parks_is_no_suspect_any_more(client, worker, sql):
    app = App("test")

    @app.workflow
    async def flow() -> str:
        return await everstep.recv()

    handle = await client.start(flow)
    sql("UPDATE everstep.run SET crashes = 4")
    await worker(app)
    await eventually(lambda: sql.one("SELECT state FROM everstep.run") == 3)
    assert sql.one("SELECT crashes FROM everstep.run") == 0
    await client.send(handle.id, "hello")
    assert await handle.result(timeout=30) == "hello"


async def test_two_workers_that_start_at_once_in_a_new_database(database, app, sql):
    @app.workflow
    async def flow() -> None: ...

    for _ in range(10):
        sql(
            "UPDATE everstep.routing SET current = NULL, revision = 0; DELETE FROM everstep.version"
        )
        workers = [everstep.Worker(app, everstep.Settings(url=database, grace=1)) for _ in range(3)]
        await asyncio.gather(*[one.__aenter__() for one in workers])
        await asyncio.gather(*[one.stop() for one in workers])
        assert sql.one("SELECT current FROM everstep.v1_routing") == "unversioned"
