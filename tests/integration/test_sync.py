"""The public names without await: a client for plain programs, sleep and run for plain workflows."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import (
    App,
    Client,
    DatabaseUnreachableError,
    Status,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
    WorkflowError,
    sync,
)


@pytest.fixture
def shop() -> App:
    app = App("shop")
    calls: list[int] = []

    @app.step
    def add(n: int) -> int:
        calls.append(n)
        return n + 1

    @app.step
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    @app.workflow
    def short(n: int) -> int:
        n = add(n)
        sync.sleep(0.05)
        return sync.run(double, n)

    @app.workflow
    def long(n: int) -> int:
        n = add(n)
        sync.sleep(timedelta(hours=1))
        return add(n)

    @app.workflow
    def failing(n: int) -> int:
        raise ValueError(f"no {n}")

    @app.workflow
    def confused(n: int) -> int:
        everstep.sleep(1)
        return n

    @app.workflow
    async def blocked(n: int) -> int:
        sync.sleep(1)
        return n

    app.calls = calls  # type: ignore[attr-defined]
    by_name = {name.rpartition(".")[2]: w for name, w in app.workflows.items()}
    app.by_name = by_name  # type: ignore[attr-defined]
    return app


def in_thread(function, *args):
    """A plain program beside this event loop, on which the worker runs."""
    return asyncio.to_thread(function, *args)


async def test_a_plain_program_starts_asks_waits_and_stops(database: str, shop: App, worker):
    await worker(shop)

    def program() -> None:
        with sync.Client.connect(database) as client:
            handle = client.start(shop.by_name["short"], 1, id="a")
            assert handle.created
            assert handle.result(30) == 4
            assert not client.start(shop.by_name["short"], 1, id="a").created
            assert [step.kind for step in client.steps("a")] == ["step", "sleep", "step"]
            assert [step.seq for step in handle.steps()] == [1, 2, 3]
            assert handle.info().status is Status.SUCCEEDED
            assert [w.id for w in client.list()] == ["a"]
            assert client.handle(shop.by_name["short"], "a").result() == 4
            assert client.handle_named("a").result() == 4
            assert client.get("nobody") is None
            with pytest.raises(UnknownWorkflowError):
                client.cancel("nobody")
            with pytest.raises(WorkflowError, match="no 5"):
                client.start(shop.by_name["failing"], 5).result(30)
            waiting = client.start_named("nobody.knows.it", {}, id="w")
            with pytest.raises(TimeoutError):
                waiting.result(0.05)
            assert waiting.cancel()
            with pytest.raises(WorkflowCancelledError):
                waiting.result(30)

    await in_thread(program)


async def test_a_client_may_be_shared_by_threads(database: str, shop: App, worker):
    await worker(shop)

    def program() -> list[int]:
        with sync.Client.connect(database) as client:
            results: list[int] = []

            def one(n: int) -> None:
                results.append(client.start(shop.by_name["short"], n).result(30))

            threads = [threading.Thread(target=one, args=(n,)) for n in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sorted(results)

    assert await in_thread(program) == [2 * (n + 1) for n in range(10)]


async def test_a_sleeping_plain_workflow_leaves_its_thread_and_goes_on_after_it(
    database: str, shop: App, worker, client: Client, sql: Sql
):
    started = await worker(shop, threads=1)
    handle = await client.start(shop.by_name["long"], 1)
    await eventually(lambda: sql("SELECT id FROM everstep.run WHERE state = 3"))
    # The only thread is free: another plain workflow runs in it.
    assert await (await client.start(shop.by_name["short"], 10)).result(30) == 22
    assert started.tenure is not None
    assert handle.id not in started.tenure.runner.executions
    sql.advance_clock(3_601)
    assert await handle.result(30) == 3
    steps = await handle.steps()
    assert [(s.kind, s.branch, s.seq) for s in steps] == [
        ("step", "", 1),
        ("sleep", "", 2),
        ("step", "", 3),
    ]
    # Replayed, not repeated.
    assert shop.calls == [1, 10, 2]


async def test_the_wrong_colour_of_sleep_is_told(shop: App, worker, client: Client):
    await worker(shop)
    with pytest.raises(WorkflowError, match=r"Call everstep\.sync\.sleep"):
        await (await client.start(shop.by_name["confused"], 1)).result(30)
    with pytest.raises(WorkflowError, match=r"await everstep\.sleep"):
        await (await client.start(shop.by_name["blocked"], 1)).result(30)


def test_outside_of_workflows_steps_just_run_and_sleep_is_an_error(shop: App):
    add, double = (
        next(s for n, s in shop._steps.items() if n.endswith(end)) for end in ("add", "double")
    )
    assert sync.run(add, 1) == 2
    assert sync.run(double, 2) == 4
    with pytest.raises(UsageError, match="no workflow"):
        sync.sleep(1)
    assert sync.run(len, []) == 0
    with pytest.raises(UsageError, match="a step or a function"):
        sync.run(7)  # type: ignore[call-overload]


def test_a_client_that_cannot_open_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(DatabaseUnreachableError), sync.Client("postgresql://x@127.0.0.1:1/x"):
        pass
    assert threading.active_count() == before
    with pytest.raises(UsageError, match="not open"):
        sync.Client("postgresql://x@127.0.0.1:1/x").get("a")


async def test_a_plain_program_talks_with_workflows(database: str, app: App, worker):
    @app.workflow
    def count(limit: int) -> int:
        sync.set_event("limit", limit)
        for number in range(limit):
            sync.write_stream("numbers", number)
        return limit + int(sync.recv("more"))

    await worker(app)

    def program() -> None:
        with sync.Client.connect(database) as client:
            started: list[int] = []
            one, two = client.start_many(count, [(2,), (3,)], id="c", progress=started.append)
            assert (one.id, two.id, started) == ("c/1", "c/2", [2])
            assert client.get_event("c/1", "limit", timeout=30) == 2
            with pytest.raises(TimeoutError):
                client.get_event("c/1", "nothing", timeout=0)
            stream = client.read_stream("c/2", "numbers")
            assert [next(stream) for _ in range(3)] == [0, 1, 2]
            assert client.send("c/1", 5, "more", key="k")
            assert one.result(30) == 7
            assert not client.send("c/1", 5, "more")
            assert client.cancel("c/2", children=False)
            with pytest.raises(everstep.WorkflowCancelledError):
                client.handle_named("c/2").result(30)
            assert list(stream) == []

    await in_thread(program)
