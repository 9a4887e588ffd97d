"""The server did it, and the reply was lost: every statement of the protocol, repeated, comes to the same."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from support.proxy import Proxy, proxy_to
from support.server import Server
from support.waiting import eventually

import everstep
from everstep import App, Client, Settings, Worker

# Words by which a statement is known on the wire, whether it is being prepared or sent whole.
STATEMENTS = {
    "start": (b"existing",),
    "claim": (b"AS waited",),
    "load": (b"everstep.branches_from(r.generation)",),
    "commit": (b"leftovers",),
    "register": (b"INSERT INTO everstep.worker",),
    "declare queues": (b"everstep.declare_queue(",),
    "lanes": (b"suspects",),
    "outcomes": (b"status <> 0",),
    "beat": (b"SET lease_until",),
}


@pytest.fixture
def proxy(postgres: Server):
    with proxy_to(postgres.port) as proxy:
        yield proxy


def through(proxy: Proxy, database: str, postgres: Server) -> str:
    return postgres.tcp_url(urlsplit(database).path.strip("/"), proxy.port)


def three_steps(ran: list[int], sleeps: float = 1.5) -> App:
    app = App("test")

    @app.step
    async def step(n: int) -> int:
        ran.append(n)
        return n

    @app.workflow(name="flow")
    async def flow() -> list[int]:
        got = [await step(1), await step(2)]
        await everstep.sleep(sleeps)
        return [*got, await step(3)]

    return app


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_lost_reply_changes_nothing(statement, database, postgres, proxy, sql):
    ran: list[int] = []
    app = three_steps(ran)
    proxy.lose_reply_to(*STATEMENTS[statement])
    settings = Settings(url=through(proxy, database, postgres), lease_ttl=3, grace=2.0)
    async with Worker(app, settings), Client.connect(settings.url) as client:
        handle = await client.start(app.workflows["flow"], id="one")
        assert await handle.result(timeout=30) == [1, 2, 3]
    assert len(proxy.lost) == 1
    assert ran == [1, 2, 3]
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 4
    assert sql.one("SELECT max(crashes) FROM everstep.run") is None
    assert sql.one("SELECT sum(n) FROM everstep.metric_delta WHERE kind = 1") in (1, None)


# What a commit holds besides the workflow's id: steps are recorded by name, the park by what it waits for.
COMMITS = {
    "checkpoint": lambda request: b"sleep" in request and b"seconds" in request,
    "park": lambda request: b"sleep" in request and b"seconds" not in request,
    "completion": lambda request: b"[1,2,3]" in request,
}


@pytest.mark.parametrize("kind", COMMITS)
async def test_each_kind_of_commit_may_lose_its_reply(kind, database, postgres, proxy, sql):
    ran: list[int] = []
    app = three_steps(ran, sleeps=3600)
    settings = Settings(url=through(proxy, database, postgres), grace=2.0)
    async with Worker(app, settings), Client.connect(database) as client:

        async def awake(times: int) -> None:
            await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
            sql.advance_clock(3601 * times)

        # A first workflow has every statement prepared: from then on requests hold parameters only.
        first = await client.start(app.workflows["flow"])
        await awake(1)
        await first.result(timeout=30)
        ran.clear()
        proxy.lose = lambda request: b"w-42-lost" in request and COMMITS[kind](request)
        handle = await client.start(app.workflows["flow"], id="w-42-lost")
        await awake(2)
        assert await handle.result(timeout=30) == [1, 2, 3]
    assert len(proxy.lost) == 1
    assert ran == [1, 2, 3]
    assert sql.one("SELECT count(*) FROM everstep.checkpoint WHERE workflow_id = 'w-42-lost'") == 4


async def test_a_release_may_lose_its_reply(database, postgres, proxy, sql):
    app, reached = App("test"), asyncio.Event()

    @app.workflow(name="flow")
    async def flow() -> None:
        reached.set()
        await asyncio.Event().wait()

    settings = Settings(url=through(proxy, database, postgres), grace=0.1)
    async with Worker(app, settings) as worker:
        await worker.client.start(flow)
        await reached.wait()
        proxy.lose_reply_to(b"AS released")
    assert len(proxy.lost) == 1
    assert tuple(sql("SELECT state, epoch, crashes FROM everstep.run")[0]) == (1, 2, 0)
    assert sql.one("SELECT state FROM everstep.worker") == 3


async def test_a_start_that_begins_here_may_lose_its_reply(database, postgres, proxy, sql):
    """The worker owns it then and does not know; it gives back what it does not run."""
    app = three_steps([])
    settings = Settings(url=through(proxy, database, postgres), lease_ttl=0.9, grace=2.0)
    async with Worker(app, settings) as worker:
        proxy.lose_reply_to(b"existing")
        handle = await worker.client.start(app.workflows["flow"], id="one")
        assert len(proxy.lost) == 1
        assert await handle.result(timeout=30) == [1, 2, 3]
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


async def test_a_worker_cut_off_from_the_database_for_a_moment_goes_on(
    database, postgres, proxy, sql
):
    """Every connection through the proxy is cut again and again."""
    ran: list[int] = []
    app = three_steps(ran)
    settings = Settings(url=through(proxy, database, postgres), grace=2.0)
    async with Worker(app, settings), Client.connect(settings.url) as client:
        starts = [asyncio.ensure_future(client.start(app.workflows["flow"])) for _ in range(50)]
        for _ in range(10):
            # Counted first: on a slow machine nobody gets through to whom each look cuts off.
            await eventually(lambda: proxy.connections() >= 3, pause=0.05)
            proxy.cut()
        handles = await asyncio.gather(*starts)
        async with asyncio.timeout(30):
            results = await asyncio.gather(*[handle.result() for handle in handles])
    assert results == [[1, 2, 3]] * 50
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 200
