"""Clocks that are wrong: the workers' do not matter, and a step of the database's harms nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.ledger import Ledger
from support.waiting import eventually

import everstep
from everstep import App, Client
from everstep.engine.sweeper import Sweeper
from everstep.engine.tenure import Phase

RESCUED = "SELECT coalesce(sum(n), 0) FROM (TABLE everstep.metric_delta UNION ALL TABLE everstep.metric_total) m WHERE kind = 4"
LEASE_SECONDS = 6
SLEEP_SECONDS = 8.0
"""Longer than a lease: a worker that is late with its beats would be declared dead meanwhile."""
LATE = """
SELECT extract(epoch FROM c.recorded_at - s.recorded_at)::float8 - %s AS seconds
  FROM everstep.checkpoint s JOIN everstep.checkpoint c ON c.workflow_id = s.workflow_id AND c.seq = 2 WHERE s.kind = 2
"""


def libfaketime() -> str:
    """The library that gives a process another clock; skips where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed (Debian: apt-get install faketime)")
    return str(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["+1h", "-1h", "+0 x0.5"])
async def test_workers_with_another_clock_are_as_good_as_any(clock, database, sql, tmp_path):
    """Half of the fleet has it: nobody is declared dead, no timer is early, and all work is done."""
    other = {
        "LD_PRELOAD": libfaketime(),
        "FAKETIME": clock,
        # Only what the time is, not how long things take: locks would wait for ever by a clock of their own.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    environment = {
        "LEDGER": str(tmp_path / "ledger"),
        "EVERSTEP_CONCURRENCY": "30",
        "AWAKE_SECONDS": "0.5",
        "EVERSTEP_LEASE_SECONDS": f"{LEASE_SECONDS}",
    }
    with Fleet(
        database, tmp_path, module="support.sleepers_app:app", environment=environment
    ) as fleet:
        fleet.start(2)
        fleet.start(2, **other)
        await eventually(fleet.whole, within=90)
        async with Client.connect(database) as client:
            handles = await asyncio.gather(
                *[client.start_named("sleeper", {"seconds": SLEEP_SECONDS}) for _ in range(400)]
            )
            await asyncio.gather(*[handle.result(timeout=60) for handle in handles])
        assert fleet.died_by_themselves() == []
    late = [row.seconds for row in sql(LATE, [SLEEP_SECONDS])]
    print(f"{len(late)} timers, {min(late):.2f} to {max(late):.2f} s late")
    assert len(late) == 400
    assert min(late) >= 0
    executions = Ledger(tmp_path / "ledger").executions()
    assert set(executions.values()) == {1}
    pids = {entry.pid for entry in Ledger(tmp_path / "ledger").entries()}
    assert len(pids) >= 3, "workers of both clocks had work"
    assert sql.one(RESCUED) == 0


@pytest.mark.parametrize(
    # After a step back, what was recorded before it seems to come after: fsck says so, and is right.
    "step",
    [3_600, pytest.param(-3_600, marks=pytest.mark.no_fsck)],
)
async def test_a_step_of_the_databases_clock_takes_no_worker_down(
    step, client, worker, sql, monkeypatch
):
    """All leases seem to have run out at once, or not to end for an hour; they move with the next beat."""
    app, go = App("test"), asyncio.Event()
    reached: list[int] = []
    swept: list[object] = []
    run_once = Sweeper.run_once

    async def counting(self: Sweeper) -> int:
        swept.append(self)
        return await run_once(self)

    monkeypatch.setattr(Sweeper, "run_once", counting)

    @app.step
    async def work(n: int) -> int:
        reached.append(n)
        await go.wait()
        return n

    @app.workflow
    async def flow(n: int) -> int:
        return await work(n)

    workers = [await worker(app, lease_ttl=9) for _ in range(3)]
    tenures = [one.tenure for one in workers]
    handles = [await client.start(flow, n) for n in range(30)]
    await eventually(lambda: len(reached) == 30)
    sql.advance_clock(step)
    swept.clear()
    beaten = (
        "SELECT count(*) FROM everstep.worker "
        "WHERE abs(extract(epoch FROM lease_until - everstep.clock())) < 10"
    )
    await eventually(lambda: sql.one(beaten) == 3)
    await eventually(lambda: len(swept) >= 12, what="four looks at the leases by each")
    assert [one.tenure for one in workers] == tenures
    assert [one.phase for one in workers] == [Phase.LIVE] * 3
    go.set()
    assert [await handle.result(timeout=30) for handle in handles] == list(range(30))
    assert sorted(reached) == list(range(30))
    assert sql.one(RESCUED) == 0


async def test_a_sleep_is_as_long_as_the_databases_clock_says(client, worker, sql):
    app = App("test")

    @app.workflow
    async def flow() -> str:
        await everstep.sleep(3_000)
        return "awake"

    await worker(app)
    handle = await client.start(flow)
    await eventually(lambda: sql.one("SELECT state FROM everstep.run") == 3)
    sql.advance_clock(3_600)
    assert await handle.result(timeout=30) == "awake"
