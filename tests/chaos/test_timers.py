"""Ten thousand timers while their workers are killed: none is early, none is lost, and none costs memory while it waits."""

from __future__ import annotations

import asyncio
import random
from statistics import median, quantiles

import pytest
from support.fleet import Fleet, kill_now_and_then
from support.ledger import Ledger
from support.memory import Memory
from support.standstill import Standstill
from support.waiting import eventually

from everstep import Client

SLEEPERS, WAVE, MOST_SLEEPERS = 10_000, 500, 12_000
LEAST_KILLS = 5
LONGEST_SECONDS = 60.0
WOKEN = """
CREATE TABLE woken (id text, late float8);
CREATE FUNCTION woken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO woken VALUES (OLD.id, extract(epoch FROM everstep.clock() - OLD.wake_at));
    RETURN NULL;
END $$;
CREATE TRIGGER woken AFTER UPDATE OF state ON everstep.run
    FOR EACH ROW WHEN (OLD.state = 3 AND NEW.state = 1 AND OLD.wake_at IS NOT NULL) EXECUTE FUNCTION woken();
"""
# What comes after a sleep, recorded so long after the sleep's end.
AWAKE = """
SELECT extract(epoch FROM c.recorded_at - s.recorded_at)::float8
       - (convert_from(s.output, 'UTF8')::jsonb ->> 'seconds')::float8 AS late
  FROM everstep.checkpoint s
  JOIN everstep.checkpoint c ON c.workflow_id = s.workflow_id AND c.seq = 2
 WHERE s.kind = 2
"""
DONE = "SELECT count(*) FROM everstep.workflow WHERE status = 1"


@pytest.mark.slow
async def test_no_timer_is_early_and_none_is_lost_though_workers_are_killed(
    database, sql, rng, tmp_path
):
    """T29."""
    sql.connection.execute(WOKEN)
    environment = {"LEDGER": str(tmp_path / "ledger"), "EVERSTEP_MAX_CRASHES": "100"}
    with (
        Standstill() as still,
        Fleet(
            database, tmp_path, module="support.sleepers_app:app", environment=environment
        ) as fleet,
    ):
        fleet.start(3)
        memory = Memory(fleet)
        monkeys = [
            asyncio.ensure_future(kill_now_and_then(fleet, rng, 5.0)),
            asyncio.ensure_future(memory.watch()),
        ]
        try:
            started = await start_sleepers(database, rng, SLEEPERS)
            await eventually(lambda: sql.one(DONE) == started, within=400, pause=0.25)
            while fleet.kills < LEAST_KILLS:
                # Where a process is long in coming up there are few in a minute.
                assert started < MOST_SLEEPERS, f"{fleet.kills} kills"
                started += await start_sleepers(database, rng, WAVE)
                await eventually(lambda: sql.one(DONE) == started, within=400, pause=0.25)  # noqa: B023
        finally:
            for monkey in monkeys:
                monkey.cancel()
            await asyncio.gather(*monkeys, return_exceptions=True)
        assert fleet.died_by_themselves() == []
    woken = [row.late for row in sql("SELECT late FROM woken")]
    awake = [row.late for row in sql(AWAKE)]
    print(f"{started} sleeps of up to {LONGEST_SECONDS:g} s, {fleet.kills} kills; {memory}")
    print(f"{len(woken)} woken {spread(woken)}; {len(awake)} went on {spread(awake)}")
    assert len(awake) == started
    assert min(woken) >= 0
    assert min(awake) >= 0
    assert median(woken) <= 1.5
    assert quantiles(woken, n=100)[-1] <= 1.5 + still.seconds
    assert memory.growth() < 64
    assert len(Ledger(tmp_path / "ledger").executions()) == started


async def start_sleepers(database: str, rng: random.Random, count: int) -> int:
    async with Client.connect(database) as client:
        for _ in range(count // WAVE):
            lengths = [rng.uniform(0, LONGEST_SECONDS) for _ in range(WAVE)]
            await asyncio.gather(*[client.start_named("sleeper", {"seconds": s}) for s in lengths])
    return count


def spread(late: list[float]) -> str:
    percentiles = quantiles(late, n=100)
    return (
        f"{min(late):.2f} to {max(late):.2f} s after their time, median {median(late):.2f}, "
        f"p90 {percentiles[89]:.2f}, p99 {percentiles[98]:.2f} s"
    )
