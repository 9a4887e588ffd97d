"""Continue-as-new: the same workflow with a new log, new arguments, and the newest code."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from conftest import StartWorker
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import (
    App,
    Client,
    NonDeterminismError,
    Settings,
    UsageError,
    Worker,
    WorkflowCancelledError,
    WorkflowError,
    sync,
)
from everstep.errors import WorkflowTimeoutError
from everstep.testing.probe import Plan


async def test_a_workflow_goes_on_under_its_id_with_new_arguments_and_an_empty_log(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    """Twelve times, because '~10' and '~1' must not be taken for each other; each parks and is replayed."""
    keys: list[str] = []

    @app.step
    async def add(n: int) -> int:
        keys.append(everstep.step_context().idempotency_key)
        return n + 1

    async def both(n: int) -> int:
        return await add(n)

    @app.workflow(name="count")
    async def count(n: int, *, until: int) -> list[int | str]:
        one, two = await asyncio.gather(both(n), both(n))
        await everstep.sleep(1.1 if n in (1, 10) else 0)
        m = await add(n)
        assert one == two == m
        if m < until:
            everstep.continue_as_new(m, until=until)
        return [m, everstep.workflow_id()]

    await worker()
    handle = await client.start_named("count", {"n": 0, "until": 12}, id="counter")
    assert await handle.result(timeout=30) == [12, "counter"]
    assert len(keys) == len(set(keys)) == 36
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1
    steps = await client.steps("counter")
    assert [s.generation for s in steps] == sorted(s.generation for s in steps)
    tenth = [(s.branch, s.seq, s.kind) for s in steps if s.generation == 10]
    assert tenth == [
        ("~10", 1, "continue"),
        ("~10", 2, "sleep"),
        ("~10", 3, "step"),
        ("~10.1", 1, "step"),
        ("~10.2", 1, "step"),
    ]
    assert next(s.output for s in steps if s.branch == "~10") == {"n": 10, "until": 12}


async def test_what_others_said_and_know_of_it_stays(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    """Messages that nobody has received, its events, its handles, its attributes, its deadline."""

    @app.workflow(name="adder")
    async def adder(total: int = 0) -> int:
        value = await everstep.recv("add")
        if value is not None:
            await everstep.set_event("total", total + value)
            everstep.continue_as_new(total + value)
        return total

    await worker()
    handle = await client.start(adder, timeout=3600, attributes={"of": "ben"})
    deadline = sql.one("SELECT deadline FROM everstep.run")
    assert await asyncio.gather(*[client.send(handle.id, n, "add") for n in range(40)])
    await eventually(lambda: sql.one("SELECT generation FROM everstep.run") == 40)
    assert sql.one("SELECT deadline FROM everstep.run") == deadline
    assert await client.get_event(handle.id, "total") == sum(range(40))
    info = await client.get(handle.id)
    assert info is not None
    assert (info.generation, info.attributes, info.input) == (40, {"of": "ben"}, {"total": 0})
    await client.send(handle.id, None, "add")
    assert await handle.result(timeout=30) == sum(range(40))


async def test_a_deadline_is_one_for_all_generations(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def endless(n: int) -> None:
        await everstep.sleep(30)
        everstep.continue_as_new(n + 1)

    await worker()
    handle = await client.start(endless, 0, timeout=45)
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    sql.advance_clock(31)
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3 AND generation = 1"))
    sql.advance_clock(46)
    with pytest.raises(WorkflowTimeoutError):
        await handle.result(timeout=30)


async def test_a_plain_workflow_continues_like_an_async_one(
    app: App, worker: StartWorker, client: Client
) -> None:
    assert sync.continue_as_new is everstep.continue_as_new
    ran: list[int] = []

    @app.step
    def note(n: int) -> None:
        ran.append(n)

    @app.workflow
    def count(n: int) -> int:
        note(n)
        sync.sleep(1.1 if n == 2 else 0)
        if n < 4:
            sync.continue_as_new(n=n + 1)
        return n

    await worker()
    assert await (await client.start(count, 0)).result(timeout=30) == 4
    assert ran == [0, 1, 2, 3, 4]


async def test_it_is_no_exception_that_code_would_catch_and_passes_a_task_group(
    app: App, worker: StartWorker, client: Client
) -> None:
    cleaned: list[int] = []

    @app.step
    async def clean(n: int) -> None:
        cleaned.append(n)

    @app.workflow
    async def careful(n: int) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                await group.create_task(clean(10 + n))
                if n < 3:
                    everstep.continue_as_new(n + 1)
        except Exception:  # noqa: BLE001
            return -1
        finally:
            await clean(n)
        return n

    await worker()
    assert await (await client.start(careful, 0)).result(timeout=30) == 3
    assert cleaned == [10, 0, 11, 1, 12, 2, 13, 3]


async def test_children_go_on_and_stay_children(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow(name="child")
    async def child() -> None:
        await everstep.recv("stop")

    @app.workflow
    async def parent(n: int) -> None:
        await everstep.start(child)
        if n < 2:
            everstep.continue_as_new(n + 1)
        await everstep.recv("stop")

    await worker()
    handle = await client.start(parent, 0, id="p")
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == 4)
    children = sql("SELECT id FROM everstep.workflow WHERE parent_id = 'p' ORDER BY id")
    assert [row.id for row in children] == ["p/1", "p/~1:2", "p/~2:2"]
    assert await handle.cancel()
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run") == 0)
    assert sql.one("SELECT count(*) FROM everstep.workflow WHERE status = 3") == 4


async def test_where_it_cannot_continue_it_says_why(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.step
    async def in_a_step() -> None:
        everstep.continue_as_new("step")

    async def with_(*args: Any) -> None:
        everstep.continue_as_new(*args)

    async def with_a_task_left() -> None:
        left = asyncio.create_task(everstep.sleep(60))
        try:
            everstep.continue_as_new("running")
        finally:
            left.cancel()

    ways = {
        "step": in_a_step,
        "task": lambda: asyncio.create_task(with_("task")),
        "running": with_a_task_left,
        "arguments": lambda: with_("one", "more"),
        "missing": with_,
        "type": lambda: with_({1, 2}),
    }

    @app.workflow
    async def tries(how: str) -> None:
        await ways[how]()

    await worker()
    said = {
        "step": "works inside a workflow function; this code runs in a step",
        "task": "in a task that it made",
        "running": "with 1 of the workflow's tasks still running",
        "arguments": "takes at most 1 arguments by position, got 2. It takes how",
        "missing": "Missing required argument 'how'. It takes how",
        "type": "does not fit its annotation",
    }
    for how, words in said.items():
        with pytest.raises(WorkflowError) as caught:
            await (await client.start(tries, how)).result(timeout=30)
        assert words in caught.value.failure.message
    with pytest.raises(UsageError, match="this code runs in no workflow"):
        everstep.continue_as_new()


async def test_continuing_with_recorded_steps_beyond_is_a_change_of_code(
    worker: StartWorker, client: Client, sql: Sql
) -> None:
    def app_that(continues: bool) -> App:
        app = App("test")

        @app.step(name="step")
        async def step() -> None: ...

        @app.workflow(name="flow")
        async def flow(n: int) -> None:
            if n == 0:
                everstep.continue_as_new(1)
            if continues:
                everstep.continue_as_new(n + 1)
            await step()
            await everstep.sleep(3600)

        return app

    before = await worker(app_that(continues=False))
    handle = await client.start_named("flow", {"n": 0})
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    await before.stop()
    sql("UPDATE everstep.run SET wake_at = everstep.clock()")
    await worker(app_that(continues=True))
    with pytest.raises(WorkflowError) as caught:
        await handle.result(timeout=30)
    assert caught.value.failure.type.endswith(NonDeterminismError.__name__)
    assert (
        "step ~1:2: the log says step step, the code calls continue_as_new()"
        in caught.value.failure.message
    )


async def test_an_endless_workflow_leaves_the_old_version_when_it_continues(
    worker: StartWorker, client: Client, sql: Sql
) -> None:
    def app_of(version: str) -> App:
        app = App("test")

        @app.workflow(name="flow")
        async def flow(seen: list[str]) -> list[str]:
            await everstep.recv("go")
            seen = [*seen, version]
            if len(seen) < 4:
                everstep.continue_as_new(seen)
            return seen

        return app

    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    await worker(app_of("v1"), version="v1")
    handle = await client.start_named("flow", {"seen": []})

    async def go(generation: int) -> None:
        await client.send(handle.id, 1, "go")
        await eventually(lambda: sql.one("SELECT generation FROM everstep.run") == generation)

    await go(1)
    await eventually(lambda: sql.one("SELECT version FROM everstep.run") == "v1")
    await worker(app_of("v2"), version="v2")
    sql("SELECT everstep.set_routing('v2', NULL, 0, NULL)")
    sql.advance_clock(31)
    # Pinned as before: the new code does not get a log of the old one, and v1 is not drained.
    assert not sql.one("SELECT everstep.mark_drained('v1')")
    await go(2)
    assert sql.one("SELECT everstep.mark_drained('v1')")
    await go(3)
    await client.send(handle.id, 1, "go")
    assert await handle.result(timeout=30) == ["v1", "v1", "v2", "v2"]


async def test_a_queue_with_a_limit_gets_its_slot_back(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    sql("SELECT everstep.set_queue('narrow', '{\"max_running\": 1}')")
    order: list[str] = []

    @app.workflow(queue="narrow")
    async def turns(who: str, n: int) -> None:
        order.append(who)
        if n < 3:
            everstep.continue_as_new(who, n + 1)

    handles = [await client.start(turns, who, 0) for who in ("a", "b")]
    await worker()
    async with asyncio.timeout(30):
        await asyncio.gather(*[handle.result() for handle in handles])
    # Each one goes to the end of the queue when it continues: nobody keeps the only place for ever.
    assert order == ["a", "b"] * 4


async def test_a_message_that_comes_while_it_continues_is_not_lost(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def hears(got: list[int]) -> list[int]:
        value = await everstep.recv("n", timeout=timedelta(seconds=30))
        got = [*got, value]
        if len(got) < 60:
            everstep.continue_as_new(got)
        return got

    await worker()
    handle = await client.start(hears, [])
    for n in range(60):
        await client.send(handle.id, n, "n")
    assert await handle.result(timeout=30) == list(range(60))


async def test_cancelled_while_it_runs_it_does_not_continue(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    """The cancellation is there, and nobody has told the worker yet: the commit itself refuses."""
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.step
    async def hold() -> None:
        began.set()
        await go_on.wait()

    @app.workflow
    async def flow(n: int) -> None:
        await hold()
        everstep.continue_as_new(n + 1)

    await worker(lease_ttl=30)
    handle = await client.start(flow, 0)
    await began.wait()
    sql("UPDATE everstep.run SET cancel = true")
    go_on.set()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=30)
    # Whichever commit brought the news: no generation began.
    assert sql.one("SELECT count(*) FROM everstep.checkpoint WHERE kind = 14") == 0


async def test_a_draining_worker_lets_a_workflow_continue_elsewhere(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    ran: list[Any] = []

    @app.workflow
    async def flow(n: int) -> int:
        ran.append(n)
        if n < 60:
            everstep.continue_as_new(n + 1)
        return n

    first = await worker()
    handle = await client.start(flow, 0)
    await eventually(lambda: len(ran) > 20)
    await first.stop()
    assert sql.one("SELECT crashes FROM everstep.run") == 0
    await worker()
    assert await handle.result(timeout=30) == 60


@pytest.mark.no_replay("its thread is held up once only")
async def test_a_plain_workflow_waits_for_its_threads_before_it_continues(
    app: App, worker: StartWorker, client: Client
) -> None:
    release = threading.Event()

    def slow(n: int) -> int:
        release.wait(30)
        return n

    @app.workflow
    def hasty(n: int) -> list[int]:
        calls = [lambda: 0, lambda: slow(1)]
        ends = sync.as_completed(calls)
        try:
            next(ends)
            sync.continue_as_new(n + 1)
        finally:
            release.set()
        return [n]

    await worker()
    with pytest.raises(WorkflowError, match="with 1 of the workflow's tasks still running"):
        await (await client.start(hasty, 0)).result(timeout=30)


async def test_a_plain_workflow_continues_after_its_threads(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.step
    def add(n: int) -> int:
        return n + 1

    @app.workflow
    def pairs(n: int) -> int:
        one, two = sync.gather(lambda: add(n), lambda: add(n))
        if one < 3:
            sync.continue_as_new(two)
        return one

    await worker()
    assert await (await client.start(pairs, 0)).result(timeout=30) == 3


async def test_replayed_after_every_checkpoint_it_continues_all_the_same(
    app: App, client: Client, database: str
) -> None:
    ran: list[int] = []

    @app.step
    async def note(n: int) -> None:
        ran.append(n)

    @app.workflow
    async def flow(n: int) -> int:
        await note(n)
        await note(n)
        if n < 5:
            everstep.continue_as_new(n + 1)
        return n

    plan = Plan(replay=True)
    async with Worker(app, Settings(url=database, grace=5.0), probe=plan.probe):
        assert await (await client.start(flow, 0)).result(timeout=30) == 5
    assert ran == [n for n in range(6) for _ in range(2)]
