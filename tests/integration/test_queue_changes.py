"""Queues changed while they run: limits set, raised and lowered, pauses, declarations of two versions, a dead worker."""

from __future__ import annotations

import asyncio
import time

import pytest
from click.testing import CliRunner
from support.fleet import Fleet
from support.limits import Claimant, log_starts, put
from support.queue_app import hold
from support.standstill import Standstill
from support.waiting import eventually

from everstep import App, Rate
from everstep.cli.main import everstep as command

TTL = 3


@pytest.fixture
def cli(database, monkeypatch):
    """Runs the command against the test's database, in a thread; gives what it said."""
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)

    async def run(*arguments: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


@pytest.fixture
def gate():
    return asyncio.Event()


@pytest.fixture
def gated(app, gate):
    """A workflow on queue q that runs until the gate opens."""

    @app.workflow(queue="q")
    async def wait(number: int) -> None:
        await gate.wait()

    return wait


def running(sql, queue="q"):
    return sql.one("SELECT count(*) FROM everstep.run WHERE queue = %s AND state = 2", [queue])


async def test_a_raised_limit_is_noticed(gated, gate, client, worker, sql, cli):
    await worker()
    for n in range(5):
        await client.start(gated, n)
    await eventually(lambda: running(sql) == 5)
    gate.set()
    await eventually(lambda: running(sql) == 0)
    gate.clear()

    assert await cli("queue", "set", "q", "--max-running", "2") == "queue q: limit 2\n"
    handles = [await client.start(gated, n) for n in range(5)]
    await eventually(lambda: running(sql) == 2)
    await cli("queue", "set", "q", "--max-running", "4")
    await eventually(lambda: running(sql) == 4)
    await cli("queue", "set", "q", "--max-running", "none")
    await eventually(lambda: running(sql) == 5)
    gate.set()
    for handle in handles:
        await handle.result(timeout=30)


async def test_a_limit_counts_what_ran_before_it_was_set(database, sql):
    """Workflows that were claimed when there was no limit hold no slot, and count all the same."""
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    sql("SELECT everstep.set_queue('q', '{}')")
    put(sql, "q", 10)
    async with Claimant(database, "q") as claimant:
        before = (await claimant.claim(3)).claimed
        assert sql.one("SELECT count(*) FROM everstep.run WHERE slot IS NOT NULL") == 0
        sql("""SELECT everstep.set_queue('q', '{"max_running": 4}')""")
        during = (await claimant.claim(10)).claimed
        assert len(during) == 1
        await claimant.finish({one.id: one.epoch for one in before[:2]})
        assert len((await claimant.claim(10)).claimed) == 2
        assert not sql.one("SELECT slotted FROM everstep.queue")
        await claimant.finish({one.id: one.epoch for one in [before[2], *during]})
        # A claim that has not seen the limit may be under way for half a minute.
        sql.advance_clock(29)
        await claimant.claim(1)
        assert not sql.one("SELECT slotted FROM everstep.queue")
        sql.advance_clock(31)
        await claimant.claim(1)
        assert sql.one("SELECT slotted FROM everstep.queue")
        assert (await claimant.claim(10)).claimed == []
        assert running(sql) == 4


async def test_a_lowered_limit_lets_what_runs_finish_and_nothing_begin(database, sql):
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    sql("""SELECT everstep.set_queue('q', '{"max_running": 5}')""")
    put(sql, "q", 20)
    async with Claimant(database, "q") as claimant:
        held = {one.id: one.epoch for one in (await claimant.claim(10)).claimed}
        sql("""SELECT everstep.set_queue('q', '{"max_running": 2}')""")
        while len(held) > 2:
            assert (await claimant.claim(10)).claimed == []
            id_, epoch = held.popitem()
            await claimant.finish({id_: epoch})
        await claimant.finish(held)
        assert len((await claimant.claim(10)).claimed) == 2
        await claimant.claim(1)
        assert sql.one("SELECT lowered_from FROM everstep.queue") is None


async def test_a_queue_limited_between_look_and_claim_is_not_claimed_from_without_the_lock(
    worker, gated, sql
):
    """A worker may have looked long ago: the claim itself sees the limit, and a pause."""
    sql("SELECT everstep.set_queue('q', '{}')")
    one = await worker()
    claimer = one.tenure.claimer
    for change in (
        "UPDATE everstep.queue SET paused = true",
        "SELECT everstep.set_queue('q', '{\"max_running\": 1}')",
    ):
        sql(change)
        put(sql, "q", 1, name=gated.name, prefix=change[:3])
        assert await claimer._claim("q", 1, 10) == []
        sql("DELETE FROM everstep.run")
        sql("DELETE FROM everstep.workflow")
        sql("UPDATE everstep.queue SET paused = false, max_running = NULL")


async def test_a_paused_queue_is_not_claimed_from_until_it_goes_on(
    app, gated, gate, client, worker, cli
):
    @app.workflow(queue="other")
    async def other() -> str:
        return "done"

    gate.set()
    one = await worker()
    await (await client.start(gated, 0)).result(timeout=30)
    assert await cli("queue", "pause", "q") == "queue q is paused\n"
    here, elsewhere = await one.client.start(gated, 1), await client.start(gated, 2)
    assert await (await client.start(other)).result(timeout=30) == "done"
    assert [(await client.get(h.id)).status for h in (here, elsewhere)] == ["queued", "queued"]
    assert await cli("queue", "resume", "q") == "queue q goes on\n"
    for handle in (here, elsewhere):
        await handle.result(timeout=30)


async def test_what_an_operator_sets_holds_until_the_declaration_changes(worker, sql, cli):
    def limit():
        return sql.one("SELECT max_running FROM everstep.queue WHERE name = 'q'")

    async def deploy(max_running):
        app = App("deployed")
        app.queue("q", max_running=max_running, rate=Rate(100, burst=20))
        await worker(app)

    await deploy(10)
    assert limit() == 10
    await cli("queue", "set", "q", "--max-running", "3")
    await deploy(10)
    assert limit() == 3
    await deploy(20)
    assert limit() == 20
    assert sql.one("SELECT rate FROM everstep.queues WHERE queue = 'q'") == "100/s burst 20"


async def test_the_current_version_declares_and_the_others_wait(worker, sql):
    def limit():
        return sql.one("SELECT max_running FROM everstep.queue WHERE name = 'q'")

    async def deploy(version, max_running):
        app = App("deployed")
        app.queue("q", max_running=max_running)
        one = await worker(app, version=version)
        return one.tenure._declarer

    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    await deploy("v1", 1)
    second = await deploy("v2", 2)
    assert limit() == 1
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    second.wake.set()
    await eventually(lambda: limit() == 2)
    await deploy("v1", 1)  # a pod of the draining version starts again
    assert limit() == 2


async def test_a_queue_that_is_only_named_keeps_what_was_set(worker, gated, sql):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 7}')""")
    await worker()
    assert sql.one("SELECT max_running FROM everstep.queue WHERE name = 'q'") == 7


async def test_the_list_shows_limits_and_set_says_what_is_wrong(worker, gated, cli):
    await worker()
    told = await cli(
        "queue", "set", "q", "--rate", "100/m burst 5", "--worker-concurrency", "3",
        "--partition-max-running", "2", "--partition-rate", "5/s",
    )  # fmt: skip
    assert (
        told == "queue q: rate 100/m burst 5, per worker 3, per partition 2, partition rate 5/s\n"
    )
    assert "100/m burst 5" in await cli("queue", "list")
    await cli("queue", "set", "q", "--rate", "none")
    assert "100/m burst 5" not in await cli("queue", "list")
    from everstep.errors import UsageError

    with pytest.raises(UsageError, match="no queue named nope"):
        await cli("queue", "set", "nope", "--max-running", "1")
    with pytest.raises(UsageError, match="nothing to set"):
        await cli("queue", "set", "q")
    assert "not a rate" in await cli("queue", "set", "q", "--rate", "fast")
    told = await cli("queue", "set", "q", "--max-running", "3000000000")
    assert "from 1 to 2147483647" in told


async def test_the_slots_of_a_killed_worker_are_used_again(database, sql, client, tmp_path):
    """kill -9: what it held is claimed elsewhere within its lease and five seconds, and the limit holds all along."""
    log_starts(sql)
    with Fleet(database, tmp_path, "support.queue_app:app", {"LIMIT": "4"}) as fleet:
        fleet.start(2, EVERSTEP_LEASE_SECONDS=str(TTL), EVERSTEP_CONCURRENCY="3")
        await eventually(lambda: sql.one("SELECT count(*) FROM everstep.worker") == 2, within=40)
        for _ in range(8):
            await client.start(hold, 60.0)
        await eventually(lambda: running(sql, "limited") == 4)
        victim = fleet.workers[0]
        mine = "SELECT count(*) FROM everstep.run WHERE worker_id IN (SELECT id FROM everstep.worker WHERE state < 3)"
        fleet.start(1, EVERSTEP_LEASE_SECONDS=str(TTL), EVERSTEP_CONCURRENCY="4")
        await eventually(lambda: sql.one("SELECT count(*) FROM everstep.worker") == 3, within=40)
        with Standstill() as still:
            fleet.kill(victim)
            killed = time.monotonic()
            await eventually(
                lambda: (
                    sql.one("SELECT count(*) FROM everstep.worker WHERE state = 3") == 1
                    and sql.one(mine) == 4
                ),
                within=60,
            )
            took = time.monotonic() - killed - still.seconds
        print(f"4 of 4 running again after {took:.1f} s, with a lease of {TTL} s")
        assert took <= TTL + 5
    assert sql.one("SELECT max(running) FROM start_log") == 4
