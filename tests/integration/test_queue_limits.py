"""Exact limits: so many run at a time, whoever claims, dies or parks (T25, F39)."""

from __future__ import annotations

import asyncio
import re

import pytest
from support.limits import Claimant, log_starts, put, rewrite_function
from support.rush import Rush
from support.waiting import eventually

import everstep
from everstep import App
from everstep.engine import claimer
from everstep.store.fsck import fsck

LOOKS = 50_000
HOLD = {1: (0.1, 0.3), 10: (0.1, 0.3), 100: (0.5, 1.0)}


@pytest.fixture
def routed(sql):
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")


def declare(sql, queue, change):
    sql("SELECT everstep.set_queue(%s, %s::jsonb)", [queue, change])


@pytest.mark.parametrize("limit", [1, 10, 100])
async def test_eight_claimers_that_die_now_and_then_never_exceed_a_limit(
    limit, database, sql, routed, rng
):
    declare(sql, "q", f'{{"max_running": {limit}}}')
    put(sql, "q", 4_000)
    log_starts(sql)
    rush = Rush(database, "q", HOLD[limit], rng, kill_every=0.7)
    seen = await rush.run(6.0, kills=5)
    assert max(seen.most, sql.one("SELECT max(running) FROM start_log")) <= limit
    assert seen.refused == 0
    # What a dead claimant holds is not used until the sweep; the rest has to be.
    usage = sum(seen.samples) / len(seen.samples) / limit
    print(f"limit {limit}: {len(seen.samples)} samples, {usage:.1%} used, {seen.finished} finished")
    assert usage >= 0.75
    assert sql.one("SELECT max(running) FROM start_log") == limit


@pytest.mark.slow
async def test_limits_hold_in_fifty_thousand_looks_through_claims_and_kills(
    database, sql, routed, rng
):
    """T25: looked at from outside each millisecond, and after each claim, which alone makes the number rise."""
    log_starts(sql)
    samples = kills = 0
    for limit in (1, 10, 100):
        queue = f"q{limit}"
        declare(sql, queue, f'{{"max_running": {limit}}}')
        put(sql, queue, 10_000)
        rush = Rush(database, queue, HOLD[limit], rng, kill_every=0.7, watchers=3)
        seen = await rush.run(12.0, samples=LOOKS // 3 + 1, kills=10)
        ran = "SELECT count(*), max(running) FROM start_log WHERE queue = %s"
        ((claims, most),) = sql(ran, [queue])
        assert max(most, seen.most) == limit
        assert seen.refused == 0
        usage = sum(seen.samples) / len(seen.samples) / limit
        print(
            f"limit {limit}: {len(seen.samples)} looks, at most {seen.most} ran; {claims} claims, "
            f"{seen.kills} kills, {usage:.1%} used"
        )
        assert usage >= 0.75  # what the dead hold is not used until a sweep
        samples, kills = samples + len(seen.samples), kills + seen.kills
    print(f"{samples} looks, {kills} kills")
    assert samples >= LOOKS
    assert kills >= 30


async def test_without_kills_a_limit_is_used_to_the_full(database, sql, routed, rng):
    declare(sql, "q", '{"max_running": 10}')
    put(sql, "q", 2_000)
    seen = await Rush(database, "q", (0.3, 0.6), rng).run(6.0, samples=1_000)
    usage = sum(seen.samples[10:]) / len(seen.samples[10:]) / 10
    print(f"{len(seen.samples)} samples, {usage:.1%} used")
    assert usage >= 0.93


MUTANTS = {
    "the queue's row is not locked": (
        r"PERFORM FROM (.*) FOR NO KEY UPDATE SKIP LOCKED",
        r"PERFORM FROM \1",
    ),
    "what runs is not counted": (r"q\.max_running - h\.n", "q.max_running - 0 * h.n"),
}


@pytest.mark.no_fsck
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_claim_that_is_not_careful_is_stopped_by_the_unique_index(
    mutant, database, sql, routed, rng
):
    """The last guard: a slot is held once. The mistake shows as errors, never as an eleventh workflow."""
    rewrite_function(sql, lambda text: re.sub(*MUTANTS[mutant], text))
    declare(sql, "q", '{"max_running": 10}')
    put(sql, "q", 20_000)
    if mutant == "what runs is not counted":
        # Every slot is taken, so there is none left to give: the limit holds, by the slots alone.
        log_starts(sql)
        await Rush(database, "q", HOLD[10], rng).run(2.0)
        assert sql.one("SELECT max(running) FROM start_log") <= 10
        return
    seen = await Rush(database, "q", (0.001, 0.01), rng).run(2.0, refused=1)
    assert seen.most <= 10


async def test_workers_together_keep_a_limit(app, client, worker):
    running = most = 0
    together = asyncio.Barrier(3)  # nobody goes on before the limit is reached

    @app.workflow(queue=app.queue("few", max_running=3))
    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await together.wait()
        running -= 1
        return number

    for _ in range(3):
        await worker()
    handles = await asyncio.gather(*[client.start(work, n) for n in range(60)])
    results = await asyncio.gather(*[h.result(timeout=30) for h in handles])
    assert results == list(range(60))
    assert most == 3


async def test_a_worker_runs_only_so_many_of_a_queue_at_a_time(app, client, worker):
    running = most = 0
    together = asyncio.Barrier(2)  # nobody goes on before the limit is reached

    @app.workflow(queue=app.queue("heavy", worker_concurrency=2))
    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await together.wait()
        running -= 1

    one = await worker()
    handles = [await client.start(work, n) for n in range(10)]
    handles += [await one.client.start(work, n) for n in range(10, 20)]
    for handle in handles:
        await handle.result(timeout=30)
    assert most == 2


@pytest.mark.parametrize("limits", [{"max_running": 1}, {"worker_concurrency": 1}], ids=str)
async def test_a_workflow_that_ends_makes_way_for_the_next_at_once(
    limits, app, worker, monkeypatch
):
    """Not with the next poll: there is none here."""
    monkeypatch.setattr(claimer, "POLL_SECONDS", (60.0, 60.0))

    @app.workflow(queue=app.queue("one", **limits))
    async def work(number: int) -> int:
        return number

    one = await worker()
    handles = await asyncio.gather(*[one.client.start(work, n) for n in range(5)])
    results = await asyncio.gather(*[h.result(timeout=30) for h in handles])
    assert results == list(range(5))


async def test_a_start_in_the_worker_itself_does_not_go_past_a_limit(app, worker, sql):
    """A worker claims in the statement that starts, but not here: it queues."""
    log_starts(sql)
    together = asyncio.Barrier(2)

    @app.workflow(queue=app.queue("few", max_running=2))
    async def work(number: int) -> int:
        await together.wait()
        return number

    one = await worker()
    handles = await asyncio.gather(*[one.client.start(work, n) for n in range(20)])
    assert [await h.result(timeout=30) for h in handles] == list(range(20))
    assert sql.one("SELECT max(running) FROM start_log") == 2


async def test_a_parked_workflow_frees_its_slot(app, client, worker, sql):
    @app.workflow(queue=app.queue("one", max_running=1))
    async def wait() -> str:
        return await everstep.recv("go", as_type=str)

    @app.workflow(queue="one")
    async def quick() -> str:
        return "done"

    await worker()
    waiting = await client.start(wait)
    await eventually(
        lambda: sql.one("SELECT state FROM everstep.run WHERE id = %s", [waiting.id]) == 3
    )
    assert await (await client.start(quick)).result(timeout=30) == "done"
    await client.send(waiting.id, "now", "go")
    assert await waiting.result(timeout=30) == "now"


async def test_a_released_workflow_frees_its_slot(database, sql, routed):
    declare(sql, "q", '{"max_running": 1}')
    put(sql, "q", 2)
    async with Claimant(database, "q") as first, Claimant(database, "q") as second:
        (one,) = (await first.claim(5)).claimed
        assert (await second.claim(5)).claimed == []
        assert await first.link.call(first._runs.release) == 1
        assert len((await second.claim(5)).claimed) == 1
        assert one.epoch == 1


async def test_a_suspect_takes_a_slot_like_any_other_workflow(database, sql, routed):
    declare(sql, "q", '{"max_running": 1}')
    put(sql, "q", 2)
    sql("UPDATE everstep.run SET crashes = 3 WHERE id LIKE '%-000001'")
    async with Claimant(database, "q") as claimant:
        (healthy,) = (await claimant.claim(5)).claimed
        assert healthy.crashes == 0
        assert (await claimant.claim(1, suspect=True)).claimed == []
        await claimant.finish({healthy.id: healthy.epoch})
        assert (await claimant.claim(5)).claimed == []
        (suspect,) = (await claimant.claim(1, suspect=True)).claimed
        assert suspect.suspect


async def test_a_limited_queue_keeps_versions_and_names_apart(database, sql, routed):
    declare(sql, "q", '{"max_running": 10}')
    put(sql, "q", 1, prefix="free")
    put(sql, "q", 1, prefix="pinned-elsewhere")
    put(sql, "q", 1, prefix="unknown", name="other")
    sql("UPDATE everstep.run SET version = 'v0' WHERE id LIKE 'pinned%'")
    async with Claimant(database, "q") as claimant:
        assert [c.id for c in (await claimant.claim(5)).claimed] == ["free-000001"]
        sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
        put(sql, "q", 1, prefix="routed-elsewhere")
        assert (await claimant.claim(5)).claimed == []


async def test_a_claim_is_refused_to_a_worker_that_is_not_live(database, sql, routed):
    declare(sql, "q", '{"max_running": 1, "rate": [1, 60, 1]}')
    put(sql, "q", 1)
    async with Claimant(database, "q") as dead, Claimant(database, "q") as live:
        sql("UPDATE everstep.worker SET state = 2 WHERE id = %s", [dead.me])
        assert (await dead.claim(5)).claimed == []
        assert len((await live.claim(5)).claimed) == 1, "the refused claim took the rate's token"


async def test_a_claim_behind_a_pooler_is_one_message_too(database, sql, routed):
    """With nothing prepared and no setting kept, the time limit travels with the claim."""
    declare(sql, "q", '{"max_running": 2}')
    put(sql, "q", 3)
    async with Claimant(database, "q") as claimant:
        claimant.link._connection.prepare_threshold = None
        assert len((await claimant.claim(5)).claimed) == 2
        assert (await claimant.claim(5)).claimed == []
        with sql.connection.transaction():
            sql("SELECT FROM everstep.queue WHERE name = 'q' FOR NO KEY UPDATE")
            assert await claimant.claim(5) is None


async def test_who_waits_for_the_lock_of_a_queue_is_not_kept_waiting(database, sql, routed):
    declare(sql, "q", '{"max_running": 1}')
    put(sql, "q", 1)
    async with Claimant(database, "q") as claimant:
        with sql.connection.transaction():
            sql("SELECT FROM everstep.queue WHERE name = 'q' FOR NO KEY UPDATE")
            assert await asyncio.wait_for(claimant.claim(1), 30) is None
        assert len((await claimant.claim(1)).claimed) == 1


@pytest.mark.no_fsck
def test_fsck_finds_what_breaks_a_limit(database, sql):
    declare(sql, "q", '{"max_running": 2, "partition_max_running": 1}')
    sql("UPDATE everstep.queue SET slotted = true")
    assert fsck(database) == []
    put(sql, "q", 4, partition="a")
    sql(
        "INSERT INTO everstep.worker VALUES (gen_random_uuid(), 'p', 'v', 1, 1, now(), now() + interval '1 hour')"
    )
    sql(
        "UPDATE everstep.run SET state = 2, worker_id = (SELECT id FROM everstep.worker), epoch = 1, version = 'v', "
        "slot = nullif(right(id, 1)::int, 4)"
    )
    found = [broken.what for broken in fsck(database) if broken.invariant == "I9"]
    assert sorted(found) == [
        "queue q has a limit, but this runs without a slot",
        "queue q: 3 run of partition 'a', at most 1 are allowed",
        "queue q: 3 slots are in use, at most 2 are allowed",
        "queue q: slot 3 is beyond the limit of 2",
    ]


def test_whoever_stops_running_gives_its_slot_back_or_fails(sql):
    put(sql, "q", 1)
    with pytest.raises(Exception, match="violates check constraint"):
        sql("UPDATE everstep.run SET slot = 1")


async def test_a_worker_leaves_queues_it_does_not_listen_to(database, client, worker):
    app = App("listening")

    @app.workflow(queue=app.queue("mine"))
    async def mine() -> str:
        return "done"

    @app.workflow(queue=app.queue("other"))
    async def other() -> str:
        return "done"

    one = await worker(app, queues=["mine"])
    left = await one.client.start(other)
    assert await (await one.client.start(mine)).result(timeout=30) == "done"
    assert (await client.get(left.id)).status == "queued"
    await worker(app, queues=["other"])
    assert await left.result(timeout=30) == "done"
