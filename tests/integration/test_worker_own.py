"""A worker and its own process: what it begins at once within its bounds, and what came too late for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest
from support.waiting import eventually

from everstep import UsageError
from everstep.engine import claimer


async def test_no_more_begin_at_once_than_the_worker_has_room_for(app, worker, sql):
    running: set[int] = set()
    most: list[int] = []
    go = asyncio.Event()

    @app.workflow
    async def flow(n: int) -> None:
        running.add(n)
        most.append(len(running))
        await go.wait()
        running.remove(n)

    one = await worker(concurrency=2)
    handles = await asyncio.gather(*[one.client.start(flow, n) for n in range(12)])
    assert len(running) == 2
    assert sql.one("SELECT count(*) FROM everstep.run WHERE state = 1") == 10
    go.set()
    await asyncio.gather(*[handle.result(30) for handle in handles])
    assert max(most) <= 2


async def test_a_suspect_stays_alone(app, worker, client, sql):
    """It may take its process with it, and whatever else had begun there."""
    began: list[str] = []
    go = asyncio.Event()

    @app.workflow
    async def flow(name: str) -> None:
        began.append(name)
        if name == "suspect":
            await go.wait()

    await client.start(flow, "suspect")
    sql("UPDATE everstep.run SET crashes = 3")
    one = await worker()
    await eventually(lambda: began == ["suspect"])
    handle = await one.client.start(flow, "other")
    assert began == ["suspect"]
    assert sql.one("SELECT state FROM everstep.run WHERE id = %s", [handle.id]) == 1
    go.set()
    await handle.result(30)
    assert began == ["suspect", "other"]


@pytest.mark.parametrize("local", [True, False])
async def test_a_start_in_a_transaction_is_hinted_without_knowing_when_that_commits(
    app, worker, client, database, monkeypatch, local
):
    monkeypatch.setattr(claimer, "POLL_SECONDS", (60.0, 60.0))

    @app.workflow
    async def flow() -> int:
        return 1

    one = await worker()
    starter = one.client if local else client
    async with await psycopg.AsyncConnection.connect(database) as connection:
        handle = await starter.start(flow, connection=connection)
    assert await handle.result(30) == 1


async def test_what_comes_too_late_for_a_worker_is_refused_and_steps_are_not(app, worker, client):
    @app.workflow
    async def early() -> int:
        return await late_step()

    one = await worker()
    for register in (
        lambda: app.workflow(name="late")(lambda: None),
        lambda: app.schedule(every=timedelta(hours=1))(early),
        lambda: app.queue("late"),
    ):
        with pytest.raises(UsageError, match="Register it before the worker starts"):
            register()

    @app.step
    async def late_step() -> int:
        return 7

    assert await (await client.start(early)).result(30) == 7
    await one.stop()

    @app.workflow
    async def late() -> int:
        return 8

    await worker()
    assert await (await client.start(late)).result(30) == 8
