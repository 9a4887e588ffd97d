"""What a workflow says in one group commit is said in the order in which it was, whichever of its tasks said it."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest
from support.database import Sql
from support.protocol import add_checkpoint, queue, two_workers

import everstep
from everstep import App, Client, sync
from everstep.store.models import CheckpointKind, CommitBatch

TASKS = 12


async def test_what_tasks_write_comes_before_what_follows_them(app: App, worker, client: Client):
    @app.workflow
    async def work() -> None:
        async def one(number: int) -> None:
            await everstep.write_stream("lines", number)
            await everstep.set_event("last", number)

        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(one(number))
        await everstep.write_stream("lines", "all")
        await everstep.set_event("last", "all")
        await everstep.close_stream("lines")

    await worker()
    handle = await client.start(work)
    await handle.result(30)
    assert [line async for line in client.read_stream(handle.id, "lines")] == [*range(TASKS), "all"]
    assert await client.get_event(handle.id, "last") == "all"


async def test_what_threads_write_comes_before_what_follows_them(app: App, worker, client: Client):
    @app.workflow
    def work() -> None:
        def one(number: int) -> None:
            sync.write_stream("lines", number)
            sync.set_event("last", number)

        sync.gather(*(partial(one, number) for number in range(4)))
        sync.set_event("last", "all")
        sync.close_stream("lines")

    await worker()
    handle = await client.start(work)
    await handle.result(30)
    assert {line async for line in client.read_stream(handle.id, "lines")} == set(range(4))
    assert await client.get_event(handle.id, "last") == "all"


@pytest.mark.parametrize("plan", ["hashed", "sorted"])
async def test_a_commit_keeps_the_order_of_its_rows(
    database: str, sql: Sql, rng: random.Random, plan: str
):
    async with two_workers(database, lambda statements: statements) as (one, _):
        ids = ["w", "v", "u"]
        for id_ in ("v", "u", "ear"):
            await queue(one, id_)
        claims = {claimed.id: claimed.epoch for claimed in await one.claim()}
        kinds = (CheckpointKind.STREAM, CheckpointKind.PUBLISH, CheckpointKind.SEND)
        said = [(id_, kind, n) for n in range(20) for id_ in ids for kind in kinds]
        places = [(str(n), 1) for n in range(len(said))]
        rng.shuffle(places)
        batch = CommitBatch()
        for (id_, kind, n), place in zip(said, places, strict=True):
            add_checkpoint(batch, id_, claims[id_], place, f"{n}".encode(), kind)
            if kind is CheckpointKind.SEND:
                batch.c_target[-1] = "ear"
        if plan == "sorted":
            # As the planner may choose to at any time: by the ids, in whatever order within one.
            await one.execute("SET enable_hashjoin = off")
        await one.runs.commit(one.session, batch)

    for id_ in ids:
        body = "convert_from(body, 'utf8')::int"
        stream = sql(f"SELECT {body} FROM everstep.stream WHERE workflow_id = '{id_}' ORDER BY n")
        assert [n for (n,) in stream] == list(range(20))
        event = sql(f"SELECT {body} FROM everstep.event WHERE workflow_id = '{id_}'")
        assert [n for (n,) in event] == [19]
    sent = sql("SELECT convert_from(body, 'utf8')::int FROM everstep.message ORDER BY n")
    assert [n for (n,) in sent] == [n for n in range(20) for _ in ids]
