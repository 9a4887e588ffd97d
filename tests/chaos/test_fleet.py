"""Fleets of real worker processes that are killed, frozen and cut off from their heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.database import Sql
from support.fleet import Fleet, freeze_now_and_then, kill_now_and_then
from support.ledger import Ledger
from support.waiting import eventually

from everstep import Client

LEASE_SECONDS = 3.0
WAVE, WAVES, MOST_WAVES = 1_000, 5, 40


@pytest.mark.slow
async def test_workers_killed_and_frozen_lose_nothing_and_record_nothing_twice(
    database, sql, rng, tmp_path
):
    with fleet_of(4, database, tmp_path) as fleet:
        started: list[str] = []
        monkeys = (
            kill_now_and_then(fleet, rng, 2.0),
            freeze_now_and_then(fleet, rng, 5.0, 1.5 * LEASE_SECONDS),
        )
        async with at_large(*monkeys):
            while not enough(fleet, len(started) // WAVE):
                started += await start_all(database, WAVE, len(started))
                await survive(fleet, sql, len(started) - WAVE // 2)
            await survive(fleet, sql, len(started))
        print(f"{fleet.kills} kills, {fleet.freezes} freezes")
        await check_outcome(database, sql, started, Ledger(tmp_path / "ledger"))


@pytest.mark.slow
async def test_live_zombies_are_fenced(database, sql, rng, tmp_path):
    settings = {"STALL_EVERY_BEATS": "4", "FENCED": str(tmp_path / "fenced")}
    with fleet_of(3, database, tmp_path, **settings) as fleet:
        # Work for some four leases: a zombie's work is taken from it only after one, and while it has some.
        started = await start_all(database, 3_600)
        await survive(fleet, sql, 3_600)
        fenced = len(Ledger(tmp_path / "fenced").entries())
        print(f"{fenced} late writes refused")
        assert fenced > 0
        await check_outcome(database, sql, started, Ledger(tmp_path / "ledger"), zombies=True)


def enough(fleet: Fleet, waves: int) -> bool:
    """On a busy machine it takes more waves until the fleet has been through all this."""
    assert waves < MOST_WAVES, f"{fleet.kills} kills and {fleet.freezes} freezes in {waves} waves"
    return waves >= WAVES and fleet.kills >= 5 and fleet.freezes >= 2


def fleet_of(count: int, url: str, folder, **environment: str) -> Fleet:
    fleet = Fleet(
        url,
        folder,
        environment={
            "LEDGER": str(folder / "ledger"),
            "SLOWEST_STEP_SECONDS": "0.7",
            "EVERSTEP_CONCURRENCY": "100",
            "EVERSTEP_MAX_CRASHES": "100",
            "EVERSTEP_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            **environment,
        },
    )
    fleet.start(count)
    return fleet


async def start_all(url: str, count: int, first: int = 0) -> list[str]:
    async with Client.connect(url) as client:
        handles = await asyncio.gather(
            *[
                client.start_named("three_steps", {"number": n}, id=f"w{n:05}")
                for n in range(first, first + count)
            ]
        )
    return [handle.id for handle in handles]


@asynccontextmanager
async def at_large(*monkeys: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(monkey) for monkey in monkeys]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def survive(fleet: Fleet, sql: Sql, count: int) -> None:
    """Wait until so many workflows have finished."""

    def finished() -> bool:
        done = sql.one("SELECT count(*) FROM everstep.workflow WHERE status <> 0")
        return done >= count

    try:
        await eventually(finished, within=300, what=f"{count} workflows finished", pause=0.25)
    except AssertionError:
        print(fleet.logs())
        raise
    assert fleet.died_by_themselves() == []


async def check_outcome(
    url: str, sql: Sql, started: list[str], ledger: Ledger, *, zombies: bool = False
) -> None:
    """Nothing lost, nothing recorded twice, nothing recorded that did not happen."""
    assert len(started) == sql.one("SELECT count(*) FROM everstep.workflow WHERE status = 1")
    assert sql.one("SELECT count(*) FROM everstep.run") == 0
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 3 * len(started)
    recorded = {
        f"{row.workflow_id}:{row.seq}": row
        for row in sql(
            "SELECT workflow_id, seq, convert_from(output, 'UTF8')::jsonb #>> '{}' AS token, "
            "extract(epoch FROM recorded_at)::float8 AS at FROM everstep.checkpoint"
        )
    }
    assert recorded.keys() == {f"{id_}:{seq}" for id_ in started for seq in (1, 2, 3)}
    results = sql(
        "SELECT id, convert_from(output, 'UTF8')::jsonb AS tokens FROM everstep.workflow ORDER BY id"
    )
    assert all(
        row.tokens == [recorded[f"{row.id}:{seq}"].token for seq in (1, 2, 3)] for row in results
    )
    happened = {(entry.key, entry.token) for entry in ledger.entries()}
    assert all((key, row.token) in happened for key, row in recorded.items())
    executions = ledger.executions()
    again = sum(executions.values()) - len(executions)
    print(f"{sum(executions.values())} executions of {len(executions)} steps, {again} twice")
    late = [e for e in ledger.entries() if e.began > recorded[e.key].at]
    if not zombies:
        # A worker whose lease ran out while it was frozen begins nothing any more.
        assert late == []
