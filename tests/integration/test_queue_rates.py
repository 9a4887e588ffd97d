"""Rates: in every window of w seconds at most rate times w, plus burst, whatever else happens (T26, F40)."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack

import pytest
from support.limits import Claimant, log_starts, put, rewrite_function, widest_burst
from support.standstill import Standstill
from support.waiting import eventually

from everstep import Rate
from everstep.store.connection import connect

TOLERANCE = 1e-5
"""Of a sum of float timestamps; the database reckons in microseconds."""


@pytest.fixture
def routed(sql):
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")


@pytest.fixture
def tick(sql):
    """The engine's clock stands still; `tick(seconds)` moves it."""
    sql("CREATE TABLE test_clock (at timestamptz)")
    sql("INSERT INTO test_clock VALUES (now())")
    sql(
        "CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql STABLE "
        "AS 'SELECT at FROM test_clock'"
    )

    def move(seconds: float) -> None:
        sql("UPDATE test_clock SET at = at + make_interval(secs => %s)", [seconds])

    return move


def starts(sql, where="true"):
    return [row.at for row in sql(f"SELECT at FROM start_log WHERE {where} ORDER BY at")]


def test_the_widest_burst_of_a_list_of_times_is_found():
    from datetime import UTC, datetime

    def at(*seconds):
        return [datetime.fromtimestamp(second, UTC) for second in seconds]

    assert widest_burst(at(), 1) == 0
    assert widest_burst(at(5), 1) == pytest.approx(1)
    assert widest_burst(at(0, 0, 0), 1) == pytest.approx(3)
    assert widest_burst(at(0, 1, 2, 3), 1) == pytest.approx(1)
    assert widest_burst(at(0, 10, 10, 10.5), 1) == pytest.approx(2.5)
    today = 1_763_899_745.007389
    times = at(*[today + n / 1000 for n in range(100)])
    assert widest_burst(times, 1000) == pytest.approx(1, abs=TOLERANCE)


async def claim_at_random(database, sql, rng, tick, *, rate, rounds=400):
    """Claims of random sizes after random pauses, some of them long. Gives the times of all starts."""
    sql("SELECT everstep.set_queue('q', %s::jsonb)", [f'{{"rate": {rate.declaration()}}}'])
    put(sql, "q", 10_000)
    log_starts(sql)
    spacing = rate.per.total_seconds() / rate.starts
    async with Claimant(database, "q") as claimant:
        for _ in range(rounds):
            share = await claimant.claim(min(50, rng.randint(1, 2 * rate.burst + 3)))
            assert share.claimed or share.wait is not None
            longest = rng.choice([0.1, 1, 1, 3, 3 * rate.burst])
            tick(round(rng.uniform(0, longest) * spacing, 6))
    return starts(sql)


RATES = [Rate(50, burst=10), Rate(3, burst=1), Rate(7, burst=5), Rate(1000, burst=100)]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.usefixtures("routed")
async def test_no_window_holds_more_than_its_share(rate, database, sql, rng, tick):
    times = await claim_at_random(database, sql, rng, tick, rate=rate, rounds=200)
    assert len(times) > 50
    assert widest_burst(times, rate.starts / rate.per.total_seconds()) <= rate.burst + TOLERANCE


MUTANTS = {
    "what was not used is saved up": (r"greatest\(q\.tat, q\.now\) - q\.now", "q.tat - q.now"),
    "a claim takes one token, whatever its size": (
        r"\(SELECT count\(\*\) FROM u\) \* a\.spacing",
        "a.spacing",
    ),
    "the bucket is one too large": (r"q\.burst - ceil", "q.burst + 1 - ceil"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.usefixtures("routed")
async def test_a_rate_that_is_not_exact_is_seen(mutant, database, sql, rng, tick):
    rewrite_function(sql, lambda text: re.sub(*MUTANTS[mutant], text))
    rate = Rate(50, burst=10)
    times = await claim_at_random(database, sql, rng, tick, rate=rate, rounds=200)
    assert widest_burst(times, 50) > rate.burst + TOLERANCE


async def watch(database, late):
    """How late answers come: a machine on which nobody gets any for a while says nothing of the rate."""
    async with await connect(database, "watch") as connection:
        while True:
            asked = time.monotonic()
            try:
                await asyncio.sleep(0.02)
                await connection.execute("SELECT 1")
            finally:
                late.append(time.monotonic() - asked - 0.02)


async def test_eight_claimers_reach_a_rate_and_never_exceed_it(database, sql, routed, rng):
    """In real time, with all of them gone for a while in the middle."""
    sql("""SELECT everstep.set_queue('q', '{"rate": [50, 1, 25]}')""")
    put(sql, "q", 2_000)
    log_starts(sql)

    async def work(claimant):
        while True:
            share = await claimant.claim(20)
            pause = 0.005 if share is None else share.wait or 0
            await asyncio.sleep(rng.uniform(0.5, 1) * pause)

    async def rush(seconds):
        late = []
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            own = [await stack.enter_async_context(Claimant(database, "q")) for _ in range(8)]
            tasks = [group.create_task(watch(database, late))]
            began = time.monotonic()
            tasks += [group.create_task(work(one)) for one in own]
            await asyncio.sleep(seconds)
            lasted = time.monotonic() - began
            for task in tasks:
                task.cancel()
        return lasted, max([*late, lasted - seconds])

    measured = []
    for advanced in range(1, 11):
        before = len(starts(sql))
        lasted, late = await rush(3.0)
        if late < 0.3:  # the bucket holds half a second's
            measured.append((len(starts(sql)) - before, lasted))
        if len(measured) == 2:
            break
        sql.advance_clock(advanced)  # nobody claims: the bucket fills, and not beyond
    times = starts(sql)
    assert widest_burst(times, 50) <= 25 + TOLERANCE
    assert len(measured) == 2, "this machine never goes on for three seconds"
    # From the first claim on, tokens come at the rate; the last ones may be on their way.
    for count, seconds in measured:
        print(f"{count} in {seconds:.2f} s: {(count - 25) / seconds / 50:.1%}")
        assert count - 25 >= 0.97 * 50 * seconds - 5


async def test_workers_keep_a_rate(app, client, worker, sql):
    log_starts(sql)

    @app.workflow(queue=app.queue("mail", rate=Rate(40, burst=20)))
    async def send(number: int) -> int:
        return number

    for _ in range(2):
        await worker()
    with Standstill() as still:
        began = time.monotonic()
        handles = await asyncio.gather(*[client.start(send, n) for n in range(100)])
        results = await asyncio.gather(*[h.result(timeout=30) for h in handles])
        took = time.monotonic() - began
    assert results == list(range(100))
    # (100 - 20) / 40 = 2 s
    assert 1.9 <= took <= 5 + still.seconds
    assert widest_burst(starts(sql), 40) <= 20 + TOLERANCE


async def test_a_slow_rate_wakes_a_worker_when_it_is_time(app, worker, sql, monkeypatch):
    # Else it would be found by looking, now and then.
    monkeypatch.setattr("everstep.engine.claimer.POLL_SECONDS", (600.0, 600.0))

    @app.workflow(queue=app.queue("slow", rate=Rate(2)))
    async def work(number: int) -> int:
        return number

    one = await worker()
    began = time.monotonic()
    handles = [await one.client.start(work, n) for n in range(4)]
    for handle in handles:
        await handle.result(timeout=30)
    assert time.monotonic() - began >= 1.4


async def test_a_partition_has_a_rate_of_its_own(database, sql, routed, tick):
    sql("""SELECT everstep.set_queue('q', '{"partition_rate": [10, 1, 2]}')""")
    for partition in ("a", "b", None):
        put(sql, "q", 100, partition=partition)
    log_starts(sql)
    async with Claimant(database, "q") as claimant:
        for _ in range(100):
            await claimant.claim(50)
            tick(0.05)
    for where in ("partition = 'a'", "partition = 'b'", "partition IS NULL"):
        times = starts(sql, where)
        assert 50 <= len(times) <= 52
        assert widest_burst(times, 10) <= 2 + TOLERANCE


async def test_a_partitions_clock_is_forgotten_once_it_says_nothing(
    sql, database, routed, tick, worker
):
    sql("""SELECT everstep.set_queue('q', '{"partition_rate": [1, 1, 1]}')""")
    put(sql, "q", 1, partition="a")
    async with Claimant(database, "q") as claimant:
        assert len((await claimant.claim(5)).claimed) == 1
    assert sql.one("SELECT count(*) FROM everstep.queue_partition") == 1
    tick(62)
    one = await worker()
    one.tenure._declarer.wake.set()
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.queue_partition") == 0)


async def test_a_quicker_rate_holds_at_once(database, sql, routed, tick):
    """The debt of a slow rate does not stop a quick one, and the change is no gift either."""
    sql("""SELECT everstep.set_queue('q', '{"rate": [1, 3600, 5]}')""")
    put(sql, "q", 100)
    async with Claimant(database, "q") as claimant:
        assert len((await claimant.claim(50)).claimed) == 5
        sql("""SELECT everstep.set_queue('q', '{"rate": [10, 1, 5]}')""")
        assert (await claimant.claim(50)).claimed == []
        tick(1)
        assert len((await claimant.claim(50)).claimed) == 5
