"""At most once, inline functions, streams, and the many ways to start."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from conftest import StartWorker
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client, Retry, UsageError, WorkflowConflictError
from everstep.errors import StepInterruptedError


async def test_an_at_most_once_step_is_never_run_again_after_its_worker_died(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    ran: list[int] = []
    hold = asyncio.Event()

    @app.step(at_most_once=True)
    async def launch() -> str:
        ran.append(1)
        await hold.wait()
        return "launched"

    @app.workflow
    async def mission() -> str:
        try:
            return await launch()
        except StepInterruptedError as error:
            return str(error)

    first = await worker(grace=0.0)
    handle = await client.start(mission)
    await eventually(lambda: ran)
    await first.stop()  # its grace is over at once: the step is cut off in the middle
    await worker()
    assert "may have happened" in await handle.result(30)
    assert ran == [1]


async def test_an_at_most_once_step_that_ends_is_replayed_like_any_other(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.step(at_most_once=True)
    async def launch() -> str:
        return "launched"

    @app.workflow
    async def mission() -> str:
        first = await launch()
        await everstep.sleep(1.2)
        return first

    await worker()
    assert await (await client.start(mission)).result(30) == "launched"


def test_at_most_once_and_retries_contradict_each_other(app: App) -> None:
    with pytest.raises(UsageError, match="contradict"):

        @app.step(at_most_once=True, retry=Retry())
        async def launch() -> None: ...


async def test_options_for_one_call(app: App, worker: StartWorker, client: Client) -> None:
    tries: list[int] = []

    @app.step
    async def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    @app.workflow
    async def work() -> int:
        return await flaky.options(retry=Retry(max_attempts=3, interval=_moment()))()

    await worker()
    assert await (await client.start(work)).result(30) == 3


async def test_any_function_can_be_run_as_a_step(
    app: App, worker: StartWorker, client: Client
) -> None:
    def plain(number: int) -> int:
        return number + 1

    async def coroutine(number: int) -> int:
        return number * 2

    @app.workflow
    async def work(number: int) -> int:
        return await everstep.run(coroutine, await everstep.run(plain, number))

    await worker()
    handle = await client.start(work, 20)
    assert await handle.result(30) == 42
    assert [step.kind for step in await handle.steps()] == ["step", "step"]


async def test_a_stream_is_read_live_and_ends(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def produce() -> None:
        await everstep.write_stream("lines", "one")
        await everstep.recv("go")
        await everstep.write_stream("lines", "two")
        await everstep.close_stream("lines")
        await everstep.recv("go")

    await worker()
    handle = await client.start(produce)
    seen: list[Any] = []
    async for line in client.read_stream(handle.id, "lines"):
        seen.append(line)
        if line == "one":
            await client.send(handle.id, None, "go")
    assert seen == ["one", "two"]
    await client.send(handle.id, None, "go")
    await handle.result(30)
    assert [line async for line in client.read_stream(handle.id, "other")] == []


async def test_nobody_reads_on_beyond_the_end_of_a_stream(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def produce(generation: int) -> None:
        await everstep.write_stream("lines", generation)
        await everstep.close_stream("lines")
        await everstep.write_stream("lines", "too late")
        if generation == 0:
            everstep.continue_as_new(1)

    await worker()
    handle = await client.start(produce, 0)
    await handle.result(30)
    assert [line async for line in client.read_stream(handle.id, "lines")] == [0]
    assert [step.output for step in await handle.steps() if step.kind == "stream"] == [
        *(0, None, "too late"),
        *(1, None, "too late"),
    ]


async def test_a_start_in_the_callers_transaction_exists_if_that_commits(
    app: App, worker: StartWorker, client: Client, database: str
) -> None:
    @app.workflow
    async def work(number: int) -> int:
        return number

    await worker()
    async with await psycopg.AsyncConnection.connect(database) as connection:
        lost = await client.start(work, 1, id="lost", connection=connection)
        await connection.rollback()
        kept = await client.start(work, 2, id="kept", connection=connection)
        with pytest.raises(
            WorkflowConflictError
        ):  # of the same transaction, so nobody else sees it
            await client.start(work, 3, id="kept", connection=connection)
        await connection.commit()
        again = await client.start(work, 2, id="kept", connection=connection)
        assert not again.created
        with pytest.raises(WorkflowConflictError):
            await client.start(work, 3, id="kept", connection=connection)
    with psycopg.connect(database) as plain:
        await client.start(work, 4, id="plain", connection=plain)
    assert await kept.result(30) == 2
    assert await client.handle(work, "plain").result(30) == 4
    assert await client.get(lost.id) is None
    with pytest.raises(UsageError, match="psycopg connection"):
        await client.start(work, 1, connection=object())


async def test_sqlalchemy_connections_and_sessions_start_too(
    app: App, worker: StartWorker, client: Client, database: str
) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import Session

    @app.workflow
    async def work(number: int) -> int:
        return number

    await worker()
    url = database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        await client.start(work, 1, id="connection", connection=connection)
    with Session(engine) as session:
        await client.start(work, 2, id="session", connection=session)
        session.commit()
    engine.dispose()
    asynchronous = create_async_engine(url)
    async with asynchronous.begin() as async_connection:
        await client.start(work, 3, id="async-connection", connection=async_connection)
    async with AsyncSession(asynchronous) as async_session:
        await client.start(work, 4, id="async-session", connection=async_session)
        await async_session.commit()
    await asynchronous.dispose()
    for number, id_ in enumerate(("connection", "session", "async-connection", "async-session"), 1):
        assert await client.handle(work, id_).result(30) == number


async def test_a_start_in_sql(app: App, worker: StartWorker, client: Client, sql: Sql) -> None:
    @app.workflow
    async def work(number: int, note: str = "none") -> str:
        return f"{number} {note}"

    await worker()
    chosen = sql.one("SELECT everstep.start(%s, %s)", [work.name, '{"number": 7}'])
    assert await client.handle(work, chosen).result(30) == "7 none"
    again = sql.one(
        "SELECT everstep.start(%s, %s, id => 'mine', priority => 0)",
        [work.name, '{"note": "hi", "number": 1}'],
    )
    assert again == "mine"
    handle = await client.start(work, 1, "hi", id="mine")
    assert not handle.created
    assert await handle.result(30) == "1 hi"
    with pytest.raises(psycopg.Error, match="another name or input"):
        sql("SELECT everstep.start('work', '{}', id => 'mine')")


async def test_thousands_in_one_call_with_progress(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow(queue="later")
    async def work(number: int) -> int:
        return number

    told: list[int] = []
    handles = await client.start_many(
        work, ((n,) for n in range(2_500)), id="import", progress=told.append
    )
    assert told == [1_000, 2_000, 2_500]
    assert len({handle.id for handle in handles}) == 2_500
    again = await client.start_many(work, ((n,) for n in range(2_500)), id="import")
    assert not any(handle.created for handle in again)
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 2_500


def _moment() -> Any:
    from datetime import timedelta

    return timedelta(milliseconds=10)
