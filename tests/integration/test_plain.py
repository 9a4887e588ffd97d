"""Plain workflows say everything that async ones say, without `await`, and several things at once in threads."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.waiting import eventually

import everstep
from everstep import Retry, StepError, WorkflowError, sync
from everstep.context import Execution
from everstep.durable import performing
from everstep.portal import record_there
from everstep.store.models import Checkpoint

HOUR = timedelta(hours=1)


def parked(sql: Any, count: int = 1) -> bool:
    return bool(sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == count)


async def test_a_plain_workflow_talks_and_is_talked_to(app, client, worker):
    @app.workflow
    def answer() -> str:
        question = sync.recv("question", timeout=HOUR, as_type=int)
        sync.set_event("answer", question + 1)
        sync.write_stream("lines", "one")
        sync.write_stream("lines", "two")
        sync.close_stream("lines")
        return "done"

    @app.workflow
    def ask(of: str) -> int:
        sync.send(of, 41, "question")
        return int(sync.get_event(of, "answer", timeout=HOUR))

    await worker()
    one = await client.start(answer)
    assert await (await client.start(ask, one.id)).result(30) == 42
    assert await one.result(30) == "done"
    assert [line async for line in client.read_stream(one.id, "lines")] == ["one", "two"]


async def test_a_plain_recv_times_out(app, client, worker):
    @app.workflow
    def listen() -> str:
        try:
            sync.recv("never", timeout=0.2)
        except TimeoutError as error:
            return str(error)
        return ""

    await worker()
    assert "came in time" in await (await client.start(listen)).result(30)


async def test_children_of_either_colour_inline_and_in_the_background(app, client, worker, sql):
    @app.workflow
    def plain_child(number: int) -> int:
        return number * 2

    @app.workflow
    async def async_child(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number * 3

    @app.workflow
    def parent() -> list[Any]:
        inline = [plain_child(1), sync.run(plain_child, 2), sync.run(async_child, 1)]
        handles = [sync.start(async_child, 10), sync.start(plain_child, 10)]
        first = sync.wait_first(handles)
        results = [handle.result() for handle in handles]
        try:
            sync.run(async_child, -1)
        except WorkflowError as error:
            return [inline, first in handles, results, error.failure.message]
        return []

    @app.workflow
    async def async_parent() -> int:
        return await everstep.run(plain_child, 4) + await async_child(4)

    await worker()
    handle = await client.start(parent, id="p")
    assert await handle.result(30) == [[2, 4, 3], True, [30, 20], "negative"]
    ids = {row.id for row in sql("SELECT id FROM everstep.workflow WHERE parent_id = 'p'")}
    assert ids == {"p/1", "p/3", "p/5", "p/7", "p/8", "p/12"}
    assert await (await client.start(async_parent)).result(30) == 20


async def test_recorded_values_and_patches_are_the_same_on_replay(app, client, worker, sql):
    runs: list[Any] = []

    @app.workflow
    def values() -> bool:
        runs.append((sync.now(), sync.uuid(), sync.random(), sync.patched("new")))
        sync.deprecate_patch("gone")
        sync.sleep(HOUR)
        return sync.patched("later")

    await worker()
    handle = await client.start(values)
    await eventually(lambda: parked(sql))
    sql.advance_clock(3601)
    assert await handle.result(30) is True
    assert len(runs) >= 2
    assert all(run == runs[0] for run in runs)
    names = [step.name for step in await handle.steps()]
    assert names == ["now", "uuid", "random", "patch new", "sleep", "patch later"]


@pytest.mark.parametrize("plain", [True, False])
async def test_sleep_until_waits_for_the_recorded_instant(app, client, worker, sql, plain):
    """Whatever a replay computes; a passed instant is no wait."""
    instants: list[datetime] = []

    def instant() -> datetime:
        instants.append(datetime.now(UTC) + HOUR * (1 + 10 * len(instants)))
        return instants[-1]

    if plain:

        @app.workflow
        def nap() -> str:
            sync.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
            sync.sleep_until(instant())
            return "awake"

    else:

        @app.workflow
        async def nap() -> str:
            await everstep.sleep_until(datetime(2020, 1, 1, tzinfo=UTC))
            await everstep.sleep_until(instant())
            return "awake"

    await worker()
    handle = await client.start(nap)
    await eventually(lambda: parked(sql))
    assert sql.one("SELECT wake_at FROM everstep.run") == instants[0]
    sql.advance_clock(3601)
    assert await handle.result(30) == "awake"
    assert len(instants) >= 2


async def test_sleep_until_wants_a_time_zone(app, client, worker):
    @app.workflow
    def naive() -> None:
        sync.sleep_until(datetime(2020, 1, 1))  # noqa: DTZ001

    await worker()
    with pytest.raises(WorkflowError, match="with a time zone"):
        await (await client.start(naive)).result(30)


# -- several at once ----------------------------------------------------------------------------


async def test_gather_runs_calls_side_by_side_each_in_its_branch(app, client, worker):
    meet = threading.Barrier(3)

    @app.step
    def wait(number: int) -> int:
        meet.wait(30)  # only calls that run at the same time get beyond this
        return number

    @app.step
    async def double(number: int) -> int:
        return 2 * number

    def two_steps(number: int) -> int:
        return sync.run(double, wait(number))

    @app.workflow
    def flow() -> list[Any]:
        pair = sync.gather(sync.call(double, 1), lambda: sync.run(double, 2))
        triple = sync.gather(*(sync.call(wait, number) for number in (7, 8, 9)))
        nested = sync.gather(*(lambda n=n: two_steps(n) for n in range(3)))  # type: ignore[misc]
        return [pair, triple, nested, sync.gather()]

    await worker(threads=1)
    handle = await client.start(flow)
    assert await handle.result(30) == [[2, 4], [7, 8, 9], [0, 2, 4], []]
    places = [(s.branch, s.seq, s.name.rpartition(".")[2]) for s in await handle.steps()]
    assert sorted(places) == [
        ("1", 1, "double"),
        ("2", 1, "double"),
        ("3", 1, "wait"),
        ("4", 1, "wait"),
        ("5", 1, "wait"),
        *((f"{n}", seq, name) for n in (6, 7, 8) for seq, name in ((1, "wait"), (2, "double"))),
    ]


async def test_gather_replays_by_position_whatever_the_threads_did(app, client, worker, sql, rng):
    delays = [rng.random() / 20 for _ in range(8)]
    ran: list[int] = []

    @app.step
    def work(number: int) -> int:
        threading.Event().wait(delays[number])
        ran.append(number)
        return number * 10

    def branch(number: int) -> int:
        first = work(number)
        sync.recv(f"go-{number % 2}")
        return first + number

    @app.workflow
    def flow() -> list[int]:
        return list(sync.gather(*(lambda n=n: branch(n) for n in range(8))))  # type: ignore[misc]

    await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    assert sorted(ran) == list(range(8))
    for number in range(8):
        await client.send(handle.id, None, f"go-{number % 2}")
    assert await handle.result(30) == [11 * n for n in range(8)]
    assert sorted(ran) == list(range(8))


async def test_what_the_engine_does_for_a_plain_workflow_is_no_branch_of_it(
    app, client, worker, sql
):
    """Recording, retries and async steps go through the event loop; gather's branches begin at 1 all the same."""
    ran: list[str] = []

    @app.step(retry=Retry(max_attempts=2, interval=timedelta(milliseconds=1)))
    def flaky(name: str) -> str:
        ran.append(name)
        if ran.count(name) == 1:
            raise ValueError(name)
        return name

    @app.step
    async def coloured(name: str) -> str:
        ran.append(name)
        return name

    @app.workflow
    def flow() -> list[str]:
        before = [flaky("a"), sync.run(coloured, "b"), str(sync.now().year)]
        together = sync.gather(sync.call(coloured, "c"), sync.call(flaky, "d"))
        sync.sleep(HOUR)
        return [*before, *together]

    await worker()
    handle = await client.start(flow)
    await eventually(lambda: parked(sql))
    places = {(s.branch, s.name.rpartition(".")[2]) for s in await handle.steps() if s.branch}
    assert places == {("1", "coloured"), ("2", "flaky")}
    sql.advance_clock(3601)
    result = await handle.result(30)
    assert [*result[:2], *result[3:]] == ["a", "b", "c", "d"]
    assert sorted(ran) == ["a", "a", "b", "c", "d", "d"]


async def test_gather_raises_the_first_error_in_the_order_of_the_calls(app, client, worker):
    second_failed = threading.Event()
    after: list[str] = []

    @app.step
    def fail(name: str) -> None:
        if name == "first":
            second_failed.wait(30)
        else:
            second_failed.set()
        raise ValueError(name)

    @app.step
    def fine() -> None:
        second_failed.wait(30)
        after.append("fine")

    @app.workflow
    def flow() -> str:
        try:
            sync.gather(sync.call(fine), sync.call(fail, "first"), sync.call(fail, "second"))
        except StepError as error:
            return error.failure.message
        return ""

    await worker()
    assert await (await client.start(flow)).result(30) == "first"
    assert after == ["fine"]


async def test_gather_parks_when_all_of_its_branches_wait_and_not_before(app, client, worker, sql):
    running, go_on = threading.Event(), threading.Event()

    @app.step
    def busy() -> str:
        running.set()
        go_on.wait(30)
        return "busy"

    def busy_then_wait() -> str:
        word = busy()
        sync.sleep(HOUR)
        return word

    @app.workflow
    def flow() -> list[str]:
        return list(sync.gather(lambda: str(sync.recv("word")), busy_then_wait))

    started = await worker()
    handle = await client.start(flow)
    await eventually(running.is_set)
    looks = started.tenure.runner.executions[handle.id]
    await eventually(lambda: looks.waits)
    # One waits, the other works: it stays, for longer than a look.
    beat = sql.one("SELECT max(lease_until) FROM everstep.worker")
    await eventually(lambda: sql.one("SELECT max(lease_until) FROM everstep.worker") > beat)
    assert sql.one("SELECT state FROM everstep.run") == 2
    go_on.set()
    await eventually(lambda: parked(sql))
    await eventually(lambda: handle.id not in started.tenure.runner.executions)
    await client.send(handle.id, "hello", "word")
    await eventually(
        lambda: sql.one("SELECT count(*) FROM everstep.message WHERE consumed_seq > 0")
    )
    sql.advance_clock(3601)
    assert await handle.result(30) == ["hello", "busy"]


async def test_many_workflows_that_gather_do_not_starve_the_thread_pool(app, client, worker):
    @app.step
    def work(number: int) -> int:
        return number

    @app.workflow
    def flow(base: int) -> int:
        steps = sync.gather(*(sync.call(work, base + n) for n in range(10)))
        nested = sync.gather(
            lambda: sum(sync.gather(sync.call(work, 1), sync.call(work, 2))),
            sync.call(work, base),
        )
        return sum(steps) + sum(nested)

    await worker(threads=2)
    handles = await client.start_many(flow, [(n,) for n in range(64)])
    results = [await handle.result(60) for handle in handles]
    assert results == [10 * n + 45 + 3 + n for n in range(64)]


async def test_a_worker_that_leaves_lets_the_steps_of_branches_end_and_another_goes_on(
    app, client, worker, monkeypatch
):
    async def late(execution: Execution, row: Checkpoint) -> None:
        await asyncio.sleep(
            0.2
        )  # what lies between the end of a step in its thread and its record on the loop
        await record_there(execution, row)

    monkeypatch.setattr(performing, "record_there", late)
    begun, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    @app.step
    def step(name: str) -> str:
        if name == "slow":
            begun.set()
            go_on.wait(30)
        ran.append(name)
        return name

    def two(first: str, second: str) -> list[str]:
        return [step(first), step(second)]

    @app.workflow
    def flow() -> list[Any]:
        return list(sync.gather(lambda: two("slow", "after"), lambda: sync.recv("word")))

    first = await worker(grace=60.0)
    handle = await client.start(flow)
    await eventually(begun.is_set)
    stopping = asyncio.create_task(first.stop())
    await eventually(lambda: first.phase == "draining")
    go_on.set()
    await asyncio.wait_for(stopping, 30)
    assert ran == ["slow"]  # it ended, was recorded, and nothing began after it
    assert [s.name.rpartition(".")[2] for s in await handle.steps()] == ["step"]
    await eventually(lambda: not branch_threads())
    await worker()
    await client.send(handle.id, "hello", "word")
    assert await handle.result(30) == [["slow", "after"], "hello"]
    assert ran == ["slow", "after"]


def branch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("everstep-branch")]


async def test_too_many_calls_at_once_say_what_to_do(app, client, worker):
    @app.workflow
    def flow() -> None:
        sync.gather(*(sync.call(len, []) for _ in range(201)))

    await worker()
    with pytest.raises(WorkflowError, match=r"at most 200.*sync\.start"):
        await (await client.start(flow)).result(30)


async def test_as_completed_repeats_its_first_order(app, client, worker, sql):
    gates = [threading.Event() for _ in range(3)]
    orders: list[list[int]] = []

    @app.step
    def wait(number: int) -> int:
        gates[number].wait(30)
        return number

    @app.workflow
    def race() -> list[int]:
        order = []
        for number in sync.as_completed(sync.call(wait, n) for n in range(3)):
            order.append(number)
            gates[number - 1].set()
            sync.set_event("last", number)  # a call between: it has its own place
        orders.append(order)
        sync.sleep(HOUR)
        return order

    await worker()
    handle = await client.start(race)
    gates[2].set()
    await eventually(lambda: parked(sql))
    sql.advance_clock(3601)
    assert await handle.result(30) == [2, 1, 0]
    assert len(orders) >= 2
    assert all(order == [2, 1, 0] for order in orders)


# -- the wrong colour, and sameness -------------------------------------------------------------

ASYNC_ONLY = {
    "recv": everstep.recv,
    "send": lambda: everstep.send("x", 1),
    "set_event": lambda: everstep.set_event("x", 1),
    "get_event": lambda: everstep.get_event("x", "y"),
    "write_stream": lambda: everstep.write_stream("x", 1),
    "close_stream": lambda: everstep.close_stream("x"),
    "now": everstep.now,
    "uuid": everstep.uuid,
    "random": everstep.random,
    "sleep": lambda: everstep.sleep(1),
    "sleep_until": lambda: everstep.sleep_until(datetime.now(UTC)),
}
PLAIN_ONLY = {
    "recv": sync.recv,
    "send": lambda: sync.send("x", 1),
    "set_event": lambda: sync.set_event("x", 1),
    "get_event": lambda: sync.get_event("x", "y"),
    "write_stream": lambda: sync.write_stream("x", 1),
    "close_stream": lambda: sync.close_stream("x"),
    "now": sync.now,
    "uuid": sync.uuid,
    "random": sync.random,
    "sleep": lambda: sync.sleep(1),
    "sleep_until": lambda: sync.sleep_until(datetime.now(UTC)),
    "asyncio.gather": sync.gather,
    "as_completed": lambda: sync.as_completed([]),
}


async def test_the_wrong_colour_names_the_right_call(app, client, worker):
    @app.workflow
    def plain() -> dict[str, str]:
        return {name: said(call) for name, call in ASYNC_ONLY.items()}

    @app.workflow
    async def coloured() -> dict[str, str]:
        return {name: said(call) for name, call in PLAIN_ONLY.items()}

    await worker()
    for name, text in (await (await client.start(plain)).result(30)).items():
        assert f"Call everstep.sync.{name}(…)" in text
    for name, text in (await (await client.start(coloured)).result(30)).items():
        assert "would block this async workflow" in text
        assert f"{name}(…)" in text


def said(call: Any) -> str:
    try:
        call()
    except everstep.UsageError as error:
        return str(error)
    return "nothing"


async def test_children_of_the_wrong_colour_name_the_right_call(app, client, worker):
    @app.workflow
    def plain_child() -> None: ...

    @app.workflow
    async def async_child() -> None: ...

    @app.workflow
    def plain() -> str:
        return said(async_child)

    @app.workflow
    async def coloured() -> str:
        return said(plain_child)

    await worker()
    assert "everstep.sync.run(async_child, …)" in await (await client.start(plain)).result(30)
    assert "await everstep.run(plain_child, …)" in await (await client.start(coloured)).result(30)


async def test_a_plain_workflow_starts_children_by_a_client_once(
    app, client, worker, database, sql
):
    @app.workflow
    def child(number: int) -> int:
        return number + 1

    @app.workflow
    def parent() -> int:
        with sync.Client.connect(database) as own:
            handle = own.start(child, 1, queue="default", priority=0)
            sync.sleep(1.2)  # parks: what is above runs again
            return handle.result()

    await worker()
    handle = await client.start(parent, id="p")
    assert await handle.result(30) == 2
    assert [row.id for row in sql("SELECT id FROM everstep.workflow WHERE id <> 'p'")] == ["p/1"]
