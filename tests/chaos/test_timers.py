"""Thousands of timers while their workers are killed: none is early, and none is lost."""

from __future__ import annotations

import asyncio
import statistics

import pytest
from support.fleet import Fleet, kill_now_and_then
from support.ledger import Ledger
from support.waiting import eventually

from everstep import Client

SLEEPERS = 5_000
LONGEST_SECONDS = 15.0
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
EARLY = """
SELECT count(*) FROM everstep.checkpoint s
  JOIN everstep.checkpoint c ON c.workflow_id = s.workflow_id AND c.seq = 2
 WHERE s.kind = 2 AND c.recorded_at < s.recorded_at
       + make_interval(secs => (convert_from(s.output, 'UTF8')::jsonb ->> 'seconds')::float8)
"""


@pytest.mark.slow
async def test_no_timer_is_early_and_none_is_lost_though_workers_are_killed(
    database, sql, rng, tmp_path
):
    sql.connection.execute(WOKEN)
    environment = {"LEDGER": str(tmp_path / "ledger"), "EVERSTEP_MAX_CRASHES": "100"}
    with Fleet(
        database, tmp_path, module="support.sleepers_app:app", environment=environment
    ) as fleet:
        fleet.start(3)
        monkey = asyncio.ensure_future(kill_now_and_then(fleet, rng, 2.0))
        try:
            async with Client.connect(database) as client:
                for _ in range(SLEEPERS // 500):
                    lengths = [rng.uniform(0, LONGEST_SECONDS) for _ in range(500)]
                    await asyncio.gather(
                        *[client.start_named("sleeper", {"seconds": s}) for s in lengths]
                    )
            done = "SELECT count(*) FROM everstep.workflow WHERE status = 1"
            await eventually(lambda: sql.one(done) == SLEEPERS, within=240, pause=0.25)
        finally:
            monkey.cancel()
            await asyncio.gather(monkey, return_exceptions=True)
        assert fleet.died_by_themselves() == []
    late = [row.late for row in sql("SELECT late FROM woken")]
    print(
        f"{SLEEPERS} sleeps, {fleet.kills} kills; {len(late)} woken {min(late):.2f} to {max(late):.2f} s "
        f"after their time, p99 {statistics.quantiles(late, n=100)[-1]:.2f} s"
    )
    assert fleet.kills
    assert min(late) >= 0
    assert sql.one(EARLY) == 0
    assert len(Ledger(tmp_path / "ledger").executions()) == SLEEPERS
