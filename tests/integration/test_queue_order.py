"""Who goes first: priorities that age, partitions that take turns, queues that share a worker (T27, F38)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from support.limits import Claimant, log_starts, put, rewrite_function
from support.waiting import eventually

from everstep import App
from everstep.engine.claimer import Claimer
from everstep.store.runs import Runs


@pytest.fixture
def routed(sql):
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")


async def claim_all(database, queue, size=20):
    """Ids in the order in which they are claimed, everything finished at once."""
    order = []
    async with Claimant(database, queue) as claimant:
        while (share := await claimant.claim(size)).claimed or share.more:
            order += [one.id for one in share.claimed]
            await claimant.finish({one.id: one.epoch for one in share.claimed})
    return order


# -- priorities ------------------------------------------------------------------------------------

LINES = [
    # priority, age in seconds: in the order in which they are due
    (3, 200),  # 200 - 180 = 20
    (0, 10),
    (1, 65),  # 5
    (0, 1),
    (2, 117),  # -3
    (3, 100),  # -80
]


def put_lines(sql, queue):
    for n, (priority, age) in enumerate(LINES):
        put(sql, queue, 1, priority=priority, age=age, prefix=f"{n}")


async def test_a_limited_queue_orders_by_age_and_priority(database, sql, routed):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 1}')""")
    put_lines(sql, "q")
    assert await claim_all(database, "q") == [f"{n}-000001" for n in range(len(LINES))]


async def test_a_worker_orders_by_age_and_priority(sql, worker):
    app = App("order")

    @app.workflow
    async def work() -> None: ...

    log_starts(sql)
    sql("SELECT everstep.set_routing('unversioned', NULL, 0, NULL)")
    sql("SELECT everstep.set_queue('default', '{}')")
    with sql.connection.transaction():  # all at once
        for n, (priority, age) in enumerate(LINES):
            put(sql, "default", 1, name=work.name, priority=priority, age=age, prefix=f"{n}")
    await worker(app, concurrency=1)
    await eventually(lambda: not sql.one("SELECT count(*) FROM everstep.run"))
    order = [row.id[0] for row in sql("SELECT id FROM start_log ORDER BY n")]
    assert order == [str(n) for n in range(len(LINES))]


async def test_lanes_full_of_what_is_for_others_are_gone_through_once_a_round(
    sql, client, worker, monkeypatch, caplog
):
    app = App("order")

    @app.workflow
    async def work() -> int:
        return 1

    put(sql, "default", 3, name="of another app", priority=0, age=3_600)
    put(sql, "default", 3, name="of another app", priority=1, age=3_600, prefix="b")
    rounds: list[int] = []
    run_once, claim = Claimer.run_once, Runs.claim

    async def counting_round(self: Claimer) -> int:
        rounds.append(0)
        return await run_once(self)

    async def counting_claim(self: Runs, *given: Any, **options: Any) -> Any:
        rounds[-1] += 1
        return await claim(self, *given, **options)

    monkeypatch.setattr(Claimer, "run_once", counting_round)
    monkeypatch.setattr(Runs, "claim", counting_claim)
    await worker(app)
    assert await (await client.start(work, priority=1)).result(30) == 1
    assert "a round failed" not in caplog.text
    # In strides that double: an hour takes a dozen for each of the two lanes.
    print("claims in each round", rounds)
    assert 2 < max(rounds) < 40


async def test_lanes_full_of_what_is_for_others_are_crossed_though_each_claim_takes_a_while(
    sql, client, worker, monkeypatch
):
    """A round ends soon. One that has found nothing until then is gone on with, not begun anew."""
    app = App("order")

    @app.workflow
    async def work() -> int:
        return 1

    put(sql, "default", 3, name="of another app", priority=0, age=3_600)
    put(sql, "default", 3, name="of another app", priority=1, age=3_600, prefix="b")
    claim = Runs.claim

    async def late_claim(self: Runs, *given: Any, **options: Any) -> Any:
        await asyncio.sleep(0.02)
        return await claim(self, *given, **options)

    monkeypatch.setattr(Runs, "claim", late_claim)
    await worker(app)
    assert await (await client.start(work, priority=1)).result(30) == 1


async def test_an_endless_stream_of_urgent_work_does_not_starve_the_rest(database, sql, routed):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 1}')""")
    put(sql, "q", 1, priority=3, prefix="patient")
    async with Claimant(database, "q") as claimant:
        order = []
        for minute in range(1, 10):
            sql.advance_clock(60 * minute)
            put(sql, "q", 3, priority=0, prefix=f"urgent{minute}")
            (one,) = (await claimant.claim(1)).claimed
            await claimant.finish({one.id: one.epoch})
            order.append(one.id.partition("-")[0])
    # Three minutes' head start for priority 0 over 3, and no more.
    assert order == ["urgent1"] * 3 + ["urgent2"] * 3 + ["patient"] + ["urgent3"] * 2


@pytest.mark.parametrize("queue", ["default", "other"])
async def test_what_comes_while_a_long_queue_is_worked_on_is_seen(queue, sql, worker):
    """More urgent, or of another queue: it does not wait until a backlog is gone through."""
    app = App("late")

    @app.workflow
    async def work() -> None: ...

    app.queue("other")
    log_starts(sql)
    sql("SELECT everstep.set_routing('unversioned', NULL, 0, NULL)")
    put(sql, "default", 3_000, name=work.name)
    await worker(app, concurrency=20)
    claimed = "SELECT count(*) FROM start_log"
    await eventually(lambda: sql.one(claimed) > 100)
    put(sql, queue, 1, name=work.name, priority=0, prefix="late")
    seen = sql.one(claimed)
    await eventually(lambda: not sql.one("SELECT count(*) FROM everstep.run"), within=60)
    assert sql.one("SELECT n FROM start_log WHERE id LIKE 'late%'") < seen + (3_000 - seen) / 2


# -- partitions ------------------------------------------------------------------------------------


def put_tenants(sql, queue, *, big=5_000, small=99, each=10, name="work"):
    put(sql, queue, big, partition="tenant-000", age=1, name=name, prefix="big")
    for n in range(1, small + 1):
        put(sql, queue, each, partition=f"tenant-{n:03}", name=name)


async def test_small_partitions_do_not_wait_behind_a_large_one(sql, worker):
    """99 tenants with 10 workflows each, behind one with 5,000, on a queue that declares nothing at all."""
    app = App("tenants")

    @app.workflow
    async def work() -> None: ...

    log_starts(sql)
    sql("SELECT everstep.set_routing('unversioned', NULL, 0, NULL)")
    put_tenants(sql, "default", name=work.name)
    await worker(app, concurrency=50)
    await eventually(lambda: not sql.one("SELECT count(*) FROM everstep.run"), within=60)
    last_small, total = sql(
        "SELECT max(n) FILTER (WHERE partition <> 'tenant-000') AS last, max(n) AS total FROM start_log"
    )[0]
    print(f"the last of 990 small ones was claimed as number {last_small} of {total}")
    # Turn by turn: the large one gets one of a hundred, and the first and last claims are batches.
    assert last_small <= 990 + 10 + 2 * 50
    assert total == 5_990


async def small_done(database, sql):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 10}')""")
    put_tenants(sql, "q", big=500, small=30, each=3)
    order = await claim_all(database, "q", size=2)
    assert len(order) == len(set(order)) == 590
    return 1 + max(n for n, id_ in enumerate(order) if not id_.startswith("big"))


async def test_partitions_take_turns_on_a_limited_queue(database, sql, routed):
    assert await small_done(database, sql) <= 90 + 3 + 10


async def test_without_the_rotor_the_first_partitions_of_the_alphabet_go_first(
    database, sql, routed
):
    rewrite_function(sql, lambda text: re.sub(r"rotor = n\.rotor", "rotor = q.rotor", text))
    assert await small_done(database, sql) > 90 + 3 + 10


async def test_workflows_without_a_partition_get_their_turn_too(database, sql, routed):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 2}')""")
    put(sql, "q", 100, partition="a")
    put(sql, "q", 100, partition="b")
    put(sql, "q", 5, prefix="none")
    order = await claim_all(database, "q")
    assert len(order) == 205
    assert max(n for n, id_ in enumerate(order) if id_.startswith("none")) < 20


async def test_a_partition_runs_so_many_at_a_time(database, sql, routed):
    sql("""SELECT everstep.set_queue('q', '{"partition_max_running": 2}')""")
    for partition in ("a", "b", None):
        put(sql, "q", 10, partition=partition)
    log_starts(sql)
    async with Claimant(database, "q") as claimant:
        first = (await claimant.claim(100)).claimed
        assert len(first) == 6
        assert (await claimant.claim(100)).claimed == []
        await claimant.finish({one.id: one.epoch for one in first if "-a-" in one.id})
        assert sorted("-a-" in one.id for one in (await claimant.claim(100)).claimed) == [
            True,
            True,
        ]
    assert sql.one("SELECT max(of_partition) FROM start_log") == 2


async def test_priorities_order_the_workflows_of_a_partition(database, sql, routed):
    sql("""SELECT everstep.set_queue('q', '{"max_running": 1}')""")
    put(sql, "q", 2, partition="a", priority=3, prefix="late")
    put(sql, "q", 2, partition="a", priority=0, prefix="soon")
    put(sql, "q", 2, partition="b", priority=3, prefix="other")
    order = [id_.split("-")[0] for id_ in await claim_all(database, "q")]
    assert order == ["soon", "other", "soon", "other", "late", "late"]


async def test_many_partitions_at_their_limit_do_not_hide_one_that_is_not(database, sql, routed):
    """More partitions than one claim looks at: the next ones go on around the ring."""
    sql("""SELECT everstep.set_queue('q', '{"partition_max_running": 1}')""")
    for n in range(200):
        put(sql, "q", 2, partition=f"{n:03}")
    async with Claimant(database, "q") as claimant:
        held = 0
        while share := await claimant.claim(5):
            held += len(share.claimed)
            if held == 200:
                break
        put(sql, "q", 1, partition="100x", prefix="hidden")
        looks = 0
        while not (share := await claimant.claim(5)).claimed:
            assert share.more
            looks += 1
        assert [one.id for one in share.claimed] == ["hidden-000001"]
        assert 1 <= looks <= 200 // 30 + 1


# -- queues ----------------------------------------------------------------------------------------


async def test_a_busy_queue_does_not_keep_a_worker_from_another(sql, worker):
    app = App("two")
    go = asyncio.Event()

    @app.workflow(queue="bulk")
    async def work() -> None:
        await go.wait()

    @app.workflow(queue="quick")
    async def other() -> None: ...

    log_starts(sql)
    sql("SELECT everstep.set_routing('unversioned', NULL, 0, NULL)")
    put(sql, "bulk", 1_000, name=work.name, age=60)
    put(sql, "quick", 5, name=other.name)
    await worker(app, concurrency=20)
    await eventually(lambda: not sql.one("SELECT count(*) FROM everstep.run WHERE queue = 'quick'"))
    # Half of the room of the first round was theirs.
    assert sql.one("SELECT max(n) FROM start_log WHERE queue = 'quick'") <= 15
