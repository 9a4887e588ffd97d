"""Which code runs what: pinned at the first claim, routed by percent, drained exactly; queues that pause."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from support.waiting import eventually

from everstep import App, Settings
from everstep.doctor import examine


def app_of(version: str, ran: dict[str, str], gate: asyncio.Event | None = None) -> App:
    app = App("test")

    @app.step(name="step")
    async def step(key: str) -> str:
        ran[key] = version
        if gate is not None:
            await gate.wait()
        return version

    @app.workflow(name="flow")
    async def flow(key: str) -> str:
        return await step(key)

    return app


async def test_a_workflow_is_pinned_by_its_first_claim_and_not_before(client, worker, sql):
    ran: dict[str, str] = {}
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    gate = asyncio.Event()
    first = await worker(app_of("v1", ran, gate), version="v1", concurrency=1, grace=0.1)
    flow = first.app.workflows["flow"]
    begun = await client.start(flow, "begun")
    await eventually(lambda: ran)
    backlog = await client.start(flow, "backlog")
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    await first.stop()
    assert sql("SELECT id, version FROM everstep.run ORDER BY id") == [
        (begun.id, "v1"),
        (backlog.id, None),
    ]
    await worker(app_of("v2", ran), version="v2")
    assert await backlog.result(timeout=30) == "v2"
    # What v1 began waits for v1, and v2 leaves it alone.
    assert sql("SELECT id, state FROM everstep.run") == [(begun.id, 1)]
    gate.set()
    await worker(app_of("v1", ran), version="v1")
    assert await begun.result(timeout=30) == "v1"
    assert ran == {"begun": "v1", "backlog": "v2"}
    assert sql("SELECT version, count(*) FROM everstep.workflow GROUP BY 1 ORDER BY 1") == [
        ("v1", 1),
        ("v2", 1),
    ]


async def test_a_workflow_says_that_it_waits_for_a_version_which_nobody_runs(
    client, worker, sql, database
):
    ran: dict[str, str] = {}
    running = await worker(app_of("v1", ran), version="v1")
    flow = running.app.workflows["flow"]
    pinned = await client.start(flow, "pinned", version="v2", id="pinned")
    assert (await pinned.info()).waits_for == "version:v2"
    (told,) = [f for f in await examine(Settings(url=database)) if f.check == "stranded"]
    assert told.workflow_id == "pinned"
    assert "version v2, and no live worker" in told.what
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    await (await client.start(flow, "other")).result(30)
    later = await client.start(flow, "later", version="v2", delay=3600)
    assert (await later.info()).waits_for is None
    await worker(app_of("v2", ran), version="v2", queues=["elsewhere"])
    # A worker is there, and does not listen: that is another matter.
    assert (await pinned.info()).waits_for is None


async def test_the_ramp_takes_its_percentage_and_the_same_ids_each_time(client, worker, sql):
    ran: dict[str, str] = {}
    sql("SELECT everstep.set_routing('v1', 'v2', 30, NULL)")
    one = await worker(app_of("v1", ran), version="v1")
    await worker(app_of("v2", ran), version="v2")
    ids = [f"w{n}" for n in range(400)]
    handles = await asyncio.gather(
        *[client.start(one.app.workflows["flow"], id_, id=id_) for id_ in ids]
    )
    await asyncio.gather(*[handle.result(timeout=30) for handle in handles])
    share = sum(version == "v2" for version in ran.values())
    assert 80 <= share <= 160  # 30 % of 400, give or take four standard deviations
    chosen = sql(
        "SELECT id FROM everstep.workflow WHERE (hashtext(id) & 2147483647) %% 100 < 30", []
    )
    assert {row.id for row in chosen} == {id_ for id_ in ids if ran[id_] == "v2"}


async def test_a_start_inside_a_worker_that_is_not_routed_to_goes_elsewhere(client, worker, sql):
    ran: dict[str, str] = {}
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    old = await worker(app_of("v1", ran), version="v1")
    new = await worker(app_of("v2", ran), version="v2")
    handle = await new.client.start(new.app.workflows["flow"], "a")
    assert await handle.result(timeout=30) == "v1"
    handle = await old.client.start(old.app.workflows["flow"], "b")
    assert await handle.result(timeout=30) == "v1"


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ((None, None, 0, None), "22023"),
        (("v1", None, 101, None), "22023"),
        (("v1", None, -1, None), "22023"),
        (("v1", None, None, None), "22023"),
        (("v1", "v1", 10, None), "22023"),
        (("v1", None, 10, None), "22023"),
        (("v1", None, 0, 7), "EV409"),
    ],
)
def test_a_wrong_routing_is_refused(sql, arguments, sqlstate):
    before = sql("SELECT current, ramping, percent, revision FROM everstep.v1_routing")
    with pytest.raises(psycopg.Error) as caught:
        sql("SELECT everstep.set_routing(%s, %s, %s, %s)", arguments)
    assert caught.value.sqlstate == sqlstate
    assert sql("SELECT current, ramping, percent, revision FROM everstep.v1_routing") == before
    assert sql("SELECT * FROM everstep.version") == []


def test_routing_moves_versions_through_their_states(sql):
    def states() -> dict[str, str]:
        return {row.version: row.state for row in sql("SELECT * FROM everstep.v1_versions")}

    assert sql.one("SELECT everstep.set_routing('v1', NULL, 0, 0)") == 1
    assert sql.one("SELECT everstep.set_routing('v1', 'v2', 5, 1)") == 2
    assert states() == {"v1": "current", "v2": "ramping"}
    assert sql.one("SELECT everstep.set_routing('v2', NULL, 0, 2)") == 3
    assert states() == {"v1": "draining", "v2": "current"}
    assert sql.one("SELECT everstep.set_routing('v1', NULL, 0, 3)") == 4
    assert states() == {"v1": "current", "v2": "draining"}
    assert sql.one("SELECT draining_since FROM everstep.version WHERE version = 'v1'") is None


def test_a_version_is_drained_thirty_seconds_after_the_routing_left_it_and_not_before(sql):
    def drained() -> bool:
        return sql.one("SELECT everstep.mark_drained('v1')")

    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    assert not drained()
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    assert not drained()
    sql.advance_clock(29)
    assert not drained()
    sql(
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at) "
        "VALUES ('open', 'flow', 'v1', 'default', 1, now())"
    )
    sql.advance_clock(31)
    assert not drained()
    sql("DELETE FROM everstep.run")
    assert not sql.one("SELECT everstep.retire_version('v1')")
    assert drained()
    assert drained()
    assert sql.one("SELECT state FROM everstep.version WHERE version = 'v1'") == "drained"
    assert sql.one("SELECT everstep.retire_version('v1')")
    assert sql.one("SELECT everstep.retire_version('v1')")
    assert drained()
    assert not sql.one("SELECT everstep.mark_drained('unknown')")
    assert not sql.one("SELECT everstep.retire_version('v2')")


def test_a_version_that_never_served_is_retired_when_nothing_stands_behind_it(sql):
    def retired() -> bool:
        return sql.one("SELECT everstep.retire_version('v2')")

    sql("INSERT INTO everstep.version (version, created_at) VALUES ('v2', now())")
    sql(
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at) "
        "VALUES ('open', 'flow', 'v2', 'default', 1, now())"
    )
    assert not retired()
    sql("DELETE FROM everstep.run")
    sql(
        "INSERT INTO everstep.worker (id, pod, version, slots, started_at, lease_until) "
        "VALUES (gen_random_uuid(), 'laptop', 'v2', 1, now(), now() + interval '15 seconds')"
    )
    assert not retired()
    sql.advance_clock(16)
    assert retired()
    assert sql.one("SELECT drained_since IS NOT NULL FROM everstep.v1_versions")
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    row = sql("SELECT state, drained_since, retired_at FROM everstep.v1_versions")[0]
    assert row == ("current", None, None)
    assert not retired()


@pytest.mark.parametrize(
    ("queue", "runnable"),
    [
        ("max_running = NULL", 3),
        ("max_running = 5", 3),
        ("max_running = 2", 1),
        ("max_running = 1", 0),
        ("paused = true", 0),
    ],
)
def test_the_demand_on_a_queue_is_what_its_limit_leaves_room_for(sql, queue, runnable):
    sql(
        "INSERT INTO everstep.worker (id, pod, version, slots, started_at, lease_until) "
        "VALUES (gen_random_uuid(), 'pod', 'v1', 5, now(), now() + interval '1 minute')"
    )
    sql(
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at, worker_id) "
        "SELECT 'w' || n, 'flow', 'v1', 'q', CASE n WHEN 1 THEN 2 ELSE 1 END, now(), "
        "       CASE n WHEN 1 THEN k.id END FROM generate_series(1, 4) n CROSS JOIN everstep.worker k"
    )
    assert sql.one("SELECT runnable FROM everstep.v1_queues") == 3
    sql("INSERT INTO everstep.queue (name, created_at) VALUES ('q', now())")
    sql(f"UPDATE everstep.queue SET {queue}")
    assert sql("SELECT ready, running, runnable FROM everstep.v1_queues") == [(3, 1, runnable)]
    sql("DELETE FROM everstep.run")


async def test_a_paused_queue_keeps_its_workflows(client, worker, sql):
    ran: dict[str, str] = {}
    one = await worker(app_of("any", ran))
    flow = one.app.workflows["flow"]
    sql("UPDATE everstep.queue SET paused = true WHERE name = 'default'")
    held = await client.start(flow, "held")
    sql("INSERT INTO everstep.queue (name, created_at) VALUES ('open', now())")
    await worker(app_of("any", ran), queues=["default", "open"])
    passed = await client.start(flow, "passed", queue="open")
    await passed.result(timeout=30)
    # Polls have gone by with the paused queue in view.
    assert list(ran) == ["passed"]
    assert sql("SELECT ready, paused FROM everstep.v1_queues WHERE queue = 'default'") == [
        (1, True)
    ]
    sql("UPDATE everstep.queue SET paused = false")
    assert await held.result(timeout=30) == "any"


async def test_the_more_urgent_go_first(client, worker, sql):
    order: list[str] = []
    app = App("test")

    @app.workflow(name="flow")
    async def flow(key: str) -> None:
        order.append(key)

    for key, priority in (("last", 3), ("late", 2), ("usual", 1), ("first", 0), ("usual too", 1)):
        await client.start(flow, key, priority=priority)
    await worker(app, concurrency=1)
    await eventually(lambda: len(order) == 5)
    assert order == ["first", "usual", "usual too", "late", "last"]
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run") == 0)


async def test_a_workflow_that_no_worker_knows_is_left_alone(client, worker, sql):
    ran: dict[str, str] = {}
    await worker(app_of("any", ran))
    await client.start_named("unheard-of", {"key": "x"}, id="unknown")
    known = await client.start_named("flow", {"key": "y"})
    assert await known.result(timeout=30) == "any"
    assert sql("SELECT id, state, epoch FROM everstep.run") == [("unknown", 1, 0)]
