"""Workers that are asked to leave in turn, that stand still, or that die of what they run."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.database import Sql
from support.fleet import Fleet
from support.ledger import Ledger
from support.waiting import eventually

from everstep import Client, WorkflowDeadError, WorkflowError

HANDOVERS = """
CREATE TABLE handover (id text, epoch integer, state smallint, at timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handover VALUES (NEW.id, NEW.epoch, NEW.state, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE OF state ON everstep.run
    FOR EACH ROW WHEN (NEW.state <> OLD.state AND OLD.state < 3) EXECUTE FUNCTION note();
"""
RESUMED = """
SELECT extract(epoch FROM later.at - earlier.at)::float8 AS seconds
  FROM handover earlier JOIN handover later ON later.id = earlier.id AND later.epoch = earlier.epoch + 1
 WHERE earlier.state = 1 AND later.state = 2
"""
RESCUED = """
SELECT (SELECT coalesce(sum(n), 0) FROM everstep.metric_delta WHERE kind = 4)
     + (SELECT coalesce(sum(n), 0) FROM everstep.metric_total WHERE kind = 4)
"""


def fleet_of(count: int, url: str, folder: Path, module: str, **environment: str) -> Fleet:
    settings = {"LEDGER": str(folder / "ledger"), **environment}
    fleet = Fleet(url, folder, module=f"support.{module}:app", environment=settings)
    fleet.start(count)
    return fleet


@pytest.mark.slow
async def test_a_rolling_restart_executes_nothing_twice_and_counts_no_crash(
    database, sql, tmp_path
):
    count, stop = 2_000, tmp_path / "stop"
    settings = {"EVERSTEP_CONCURRENCY": "1000", "EVERSTEP_LEASE_SECONDS": "15", "STOP": str(stop)}
    sql.connection.execute(HANDOVERS)
    with fleet_of(
        4, database, tmp_path, "trouble_app", SLOWEST_STEP_SECONDS="2", **settings
    ) as fleet:
        await eventually(fleet.whole, within=60)
        async with Client.connect(database) as client:
            handles = await asyncio.gather(
                *[client.start_named("goes_on", {"number": n}) for n in range(count)]
            )
            for leaving in list(fleet.workers):
                fleet.start()
                await eventually(fleet.whole, within=60)
                assert await asyncio.to_thread(fleet.terminate, leaving) == 0
            stop.touch()
            async with asyncio.timeout(120):
                steps = await asyncio.gather(*[handle.result() for handle in handles])
        assert fleet.died_by_themselves() == []
    resumed = [row.seconds for row in sql(RESUMED)]
    executions = Ledger(tmp_path / "ledger").executions()
    print(
        f"{len(resumed)} handed over, resumed within {quantile(resumed):.2f} s (p99); "
        f"{executions.total()} executions of {len(executions)} steps"
    )
    assert len(resumed) > count / 2
    assert sql.one(RESCUED) == 0
    assert len(executions) == sum(steps) == sql.one("SELECT count(*) FROM everstep.checkpoint")
    assert set(executions.values()) == {1}


def quantile(seconds: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(seconds, n=100)[-1]


@pytest.mark.slow
async def test_a_blocked_loop_is_no_dead_worker(database, sql, tmp_path):
    with fleet_of(2, database, tmp_path, "trouble_app", EVERSTEP_LEASE_SECONDS="9") as fleet:
        await eventually(fleet.whole, within=60)
        async with Client.connect(database) as client:
            handle = await client.start_named("w_blocks_the_loop", {"seconds": 15.0}, id="one")
            await handle.result(timeout=60)
        assert fleet.died_by_themselves() == []
    assert Ledger(tmp_path / "ledger").executions() == {"one:1": 1}
    assert sql.one(RESCUED) == 0


@pytest.mark.slow
async def test_a_worker_whose_gil_is_held_past_its_lease_is_taken_over_from_once(
    database, sql, tmp_path
):
    until = tmp_path / "until"
    os.mkfifo(until)
    settings = {"EVERSTEP_LEASE_SECONDS": "4", "UNTIL": str(until)}
    with fleet_of(2, database, tmp_path, "trouble_app", **settings) as fleet:
        await eventually(fleet.whole, within=60)
        async with Client.connect(database) as client:
            handle = await client.start_named("w_holds_the_gil", {}, id="one")
            ran_by = await handle.result(timeout=60)
            os.close(os.open(until, os.O_WRONLY | os.O_NONBLOCK))
            # The first one wakes up, finds its lease gone and begins anew.
            live = "SELECT count(*) FROM everstep.worker WHERE state = 1 AND lease_until > now()"
            await eventually(lambda: sql.one(live) == 2, within=30)
        assert fleet.died_by_themselves() == []
    first, second = Ledger(tmp_path / "ledger").entries()
    assert first.pid != second.pid == ran_by
    assert sql.one("SELECT finished_epoch FROM everstep.workflow") == 3
    assert sql.one(RESCUED) == 1
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 1


MAX_CRASHES = 3
LETHAL = ("w_aborts", "w_overflows_the_stack", "w_interrupts")
HARMLESS = {"w_recurses": "RecursionError", "w_eats_memory": "MemoryError"}


@pytest.mark.slow
async def test_poison_is_isolated_and_takes_no_innocent_with_it(database, sql, tmp_path):
    settings = {"EVERSTEP_LEASE_SECONDS": "9", "EVERSTEP_MAX_CRASHES": str(MAX_CRASHES)}
    with fleet_of(4, database, tmp_path, "trouble_app", **settings) as fleet:
        nurse = asyncio.ensure_future(replace_the_dead(fleet, sql))
        try:
            async with Client.connect(database) as client, asyncio.timeout(240):
                for name in HARMLESS:
                    await among_innocents(client, name, 50, WorkflowError)
                for name in LETHAL:
                    await among_innocents(client, name, 200, WorkflowDeadError)
        except BaseException:
            print(fleet.logs())
            raise
        finally:
            nurse.cancel()
    check_poison(sql, Ledger(tmp_path / "ledger"), fleet.started - 4)


async def among_innocents(client: Client, name: str, count: int, error: type[Exception]) -> None:
    """One poison and so many others, started together; it ends in an error, they in their results."""
    poison = await client.start_named(name, {}, id=name)
    handles = await asyncio.gather(
        *[client.start_named("innocent", {"number": n}) for n in range(count)]
    )
    with pytest.raises(error):
        await poison.result()
    assert await asyncio.gather(*[handle.result() for handle in handles]) == list(range(count))


def check_poison(sql: Sql, ledger: Ledger, deaths: int) -> None:
    executions = Counter(entry.token for entry in ledger.entries())
    print(f"{deaths} workers died and were replaced; executions {dict(executions)}")
    # So many crashes are forgiven, the next one is the last.
    for lethal in ("aborts", "overflows", "interrupts"):
        assert executions[lethal] == MAX_CRASHES + 1
    assert executions["recurses"] == executions["eats"] == 1
    assert deaths <= len(LETHAL) * (MAX_CRASHES + 1)
    ended = sql("SELECT id, status, error_type FROM everstep.workflows WHERE name <> 'innocent'")
    assert {row.id: row.error_type for row in ended} == {
        **dict.fromkeys(LETHAL, "everstep.CrashLoop"),
        **HARMLESS,
    }


async def replace_the_dead(fleet: Fleet, sql: Sql) -> None:
    """For ever: another worker for each that ends, as soon as it does."""

    async def replace(worker: subprocess.Popen[bytes]) -> None:
        while True:
            await ended(worker)
            fleet.replace(worker, sql)
            worker = fleet.workers[-1]

    await asyncio.gather(*[replace(worker) for worker in fleet.workers])


async def ended(process: subprocess.Popen[bytes]) -> None:
    """The kernel tells of the end of a process by a file descriptor that can be read."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()
