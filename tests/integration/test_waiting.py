"""Wake-ups that nobody sent are found by the sweep, and a workflow parks only when all of it can be woken."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from conftest import StartWorker
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client
from everstep.context import Execution
from everstep.engine.lookout import Lookout
from everstep.errors import Fenced
from everstep.store.connection import Link, RowRejected, connect
from everstep.store.messages import Messages

MESSAGE = (
    "INSERT INTO everstep.message (workflow_id, topic, codec, body, sent_at) "
    "VALUES ('w', %s, 1, '1', now())"
)
EVENT = "INSERT INTO everstep.event VALUES (%s, %s, 1, '1', now())"
FINISHED = (
    "UPDATE everstep.workflow SET status = 3, finished_at = now(), finished_epoch = 0, error = '{}' "
    "WHERE id = 'a:b%'"
)

# What it waits for, what happened, and whether that is a reason to wake.
REASONS = {
    "a message": ("message:x:y", MESSAGE, ["x:y"], True),
    "a message of another topic": ("message:x", MESSAGE, ["x:y"], False),
    "a workflow": ("workflow:a:b%", FINISHED, [], True),
    "an event": ("event:a%3Ab%25:k:l", EVENT, ["a:b%", "k:l"], True),
    "an event of another name": ("event:a%3Ab%25:k", EVENT, ["a:b%", "k:l"], False),
    "an event that can no longer come": ("event:a%3Ab%25:k", FINISHED, [], True),
    "a message of one of several branches": ('["message:x", "sleep"]', MESSAGE, ["x"], True),
    "an event of one of several branches": (
        '["event:a%3Ab%25:k", "message:x"]',
        EVENT,
        ["a:b%", "k"],
        True,
    ),
    "nothing for several branches": ('["event:a%3Ab%25:k", "message:x"]', MESSAGE, ["y"], False),
    "a message while it only sleeps": ("sleep", MESSAGE, ["x"], False),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_the_sweep_wakes_who_has_no_reason_to_wait(database: str, sql: Sql, reason: str):
    wait_key, statement, arguments, wakes = REASONS[reason]
    for id_, state, epoch, key in (("w", 3, 2, wait_key), ("a:b%", 1, 0, None)):
        sql(
            "WITH w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
            "VALUES (%s, 'w', 'q', 1, '{}', now())) INSERT INTO everstep.run "
            "(id, name, queue, ready_at, state, epoch, wait_key) VALUES (%s, 'w', 'q', now(), %s, %s, %s)",
            [id_, id_, state, epoch, key],
        )
    async with await connect(database, "sweep") as connection:
        assert await Messages("everstep").wake_forgotten(connection) == 0
        sql(statement, arguments or None)
        if statement == FINISHED:
            sql("DELETE FROM everstep.run WHERE id = 'a:b%'")
        assert await Messages("everstep").wake_forgotten(connection) == wakes
        assert sql.one("SELECT state FROM everstep.run WHERE id = 'w'") == (1 if wakes else 3)
        assert await Messages("everstep").wake_forgotten(connection) == 0


async def test_a_lost_wake_up_of_any_branch_is_made_up_for(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def listen(other: str) -> list[int]:
        waits = [everstep.recv("a"), everstep.recv("b"), everstep.get_event(other, "k")]
        return list(await asyncio.gather(*waits))

    @app.workflow
    async def publish() -> None:
        await everstep.recv("never")

    await worker(lease_ttl=1.5)
    await client.start(publish, id="p:1")
    handle = await client.start(listen, "p:1", id="w")
    waits_for = '["event:p%3A1:k", "message:a", "message:b"]'
    parked = "SELECT wait_key FROM everstep.run WHERE id = 'w' AND state = 3"
    await eventually(lambda: sql(parked) == [(waits_for,)])
    for statement, arguments in ((EVENT, ["p:1", "k"]), (MESSAGE, ["b"]), (MESSAGE, ["a"])):
        sql(statement, arguments)  # as a sender does that dies before it wakes anybody
    assert await handle.result(30) == [1, 1, 1]


async def test_a_branch_that_waits_for_its_commit_keeps_the_others_from_parking(
    app: App, worker: StartWorker, client: Client, sql: Sql, database: str, monkeypatch
) -> None:
    """Its next step would be forgotten until somebody wakes the workflow for another reason."""
    began, locked, looks = asyncio.Event(), asyncio.Event(), []

    @app.step
    async def one() -> None:
        began.set()
        await locked.wait()

    @app.step
    async def two() -> None:
        pass

    async def steps() -> None:
        await one()
        await two()

    @app.workflow
    async def work() -> str:
        steps_task = asyncio.create_task(steps())
        word = str(await everstep.recv("go"))
        await steps_task
        return word

    message = Lookout.message

    async def counting(self: Lookout, execution, topic: str):
        looks.append(topic)
        return await message(self, execution, topic)

    monkeypatch.setattr(Lookout, "message", counting)
    monkeypatch.setattr("everstep.durable.waiting.LOOK_SECONDS", (0.01, 0.13))
    await worker()
    handle = await client.start(work, id="w")
    await began.wait()
    async with await psycopg.AsyncConnection.connect(database) as lock:
        await lock.execute("SELECT FROM everstep.run WHERE id = 'w' FOR UPDATE")
        locked.set()
        blocked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        await eventually(lambda: sql.one(blocked, [lock.info.backend_pid]))
        # Long enough for recv to have considered parking more than once.
        enough = len(looks) + 9
        await eventually(
            lambda: len(looks) >= enough or sql.one("SELECT state FROM everstep.run") != 2
        )
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.checkpoint") == 2, within=30)
    await client.send(handle.id, "gone", "go")
    assert await handle.result(30) == "gone"


async def test_a_park_that_waited_for_a_lock_and_was_refused_leaves_the_workflow_running(
    app: App, worker: StartWorker, client: Client, sql: Sql, database: str
) -> None:
    """Taken for parked, it would be owned by a worker that does not run it, until that gives back its strays."""
    begun, locked = asyncio.Event(), asyncio.Event()

    @app.workflow
    async def work() -> str:
        begun.set()
        await locked.wait()
        return str(await everstep.recv("go"))

    await worker()
    async with await psycopg.AsyncConnection.connect(database) as lock:
        handle = await client.start(work, id="w")
        await begun.wait()
        await lock.execute("SELECT FROM everstep.run WHERE id = 'w' AND state = 2 FOR UPDATE")
        locked.set()
        blocked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        await eventually(lambda: sql.one(blocked, [lock.info.backend_pid]))
        # What a sender and its waker do, in the moment in which the park waits for the row.
        await lock.execute(MESSAGE, ["go"])
        await lock.execute("UPDATE everstep.run SET signals = signals + 1 WHERE id = 'w'")
    assert await handle.result(30) == "1"


async def test_looks_asked_together_are_answered_each_for_itself(database: str, sql: Sql) -> None:
    for n in range(250):
        sql(
            "WITH w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
            "VALUES (%(id)s, 'w', 'q', 1, '{}', now())), r AS (INSERT INTO everstep.run "
            "(id, name, queue, ready_at) VALUES (%(id)s, 'w', 'q', now())) "
            "INSERT INTO everstep.message (workflow_id, topic, codec, body, sent_at) "
            "VALUES (%(id)s, 't', 1, %(body)s, now())",
            {"id": f"w{n}", "body": str(n).encode()},
        )
    link = Link(database, "look")
    lookout = Lookout(link, Messages("everstep"))
    some = [_execution(f"w{n}") for n in range(250)]
    asked = [asyncio.ensure_future(lookout.message(one, "t")) for one in some]
    asked += [
        asyncio.ensure_future(question)
        for question in (
            lookout.message(some[0], "none"),
            lookout.message(some[0], "not\x00text"),
            lookout.message(_execution("gone"), "t"),
            lookout.outcome(some[1], "w0"),
            lookout.outcome(some[1], "nobody"),
            lookout.outcome(some[2], "w0"),
            lookout.event(some[3], "w0", "k"),
        )
    ]
    answering = asyncio.create_task(lookout.run())
    *messages, nothing, refused, gone, outcome, unknown, other, event = await asyncio.gather(
        *asked, return_exceptions=True
    )
    assert [seen.body for seen in messages] == [str(n).encode() for n in range(250)]
    assert nothing.n is None
    assert isinstance(refused, RowRejected)
    assert isinstance(gone, Fenced)
    assert (outcome.known, outcome.finished, unknown.known, other.known) == (
        True,
        False,
        False,
        True,
    )
    assert (event.known, event.body) == (True, None)
    assert sql.one("SELECT waiters FROM everstep.run WHERE id = 'w0'") == ["w1", "w2", "w3"]
    await lookout.outcome(some[2], "w0")  # knows that it is on the list
    await lookout.outcome(_execution("w2"), "w0")  # does not know
    assert sql.one("SELECT waiters FROM everstep.run WHERE id = 'w0'") == ["w1", "w2", "w3"]
    answering.cancel()
    await asyncio.wait([answering])
    await link.close()
    with pytest.raises(Fenced):
        await lookout.message(some[4], "t")


def _execution(id_: str) -> Execution:
    return Execution(id_, "w", 1, asyncio.get_running_loop(), None, 1_000)  # type: ignore[arg-type]


@pytest.mark.no_replay("counts replays")
async def test_a_workflow_that_begins_anew_takes_its_messages_and_writes_its_streams_again(
    app: App, worker: StartWorker, client: Client
) -> None:
    lives: list[str] = []

    @app.workflow
    async def work() -> str:
        lives.append("life")
        await everstep.write_stream("s", len(lives))
        word = str(await everstep.recv("go"))
        if len(lives) == 1:
            raise ValueError(word)
        return word

    await worker()
    handle = await client.start(work, id="w")
    await client.send("w", "again", "go")
    with pytest.raises(everstep.WorkflowError):
        await handle.result(30)
    handle = await client.start(work, id="w", on_existing="restart")
    assert await handle.result(30) == "again"
    assert [value async for value in client.read_stream("w", "s")] == [2]


async def test_a_look_at_all_that_wait_is_rarer_the_longer_it_takes(
    app: App, worker: StartWorker, sql: Sql, database: str
) -> None:
    looks = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%wait_key%' "
        "AND clock_timestamp() - query_start > interval '0.3 seconds'"
    )
    next_in = (
        "SELECT extract(epoch FROM next_at - everstep.clock())::float8 "
        "FROM everstep.ticket WHERE task = 'forgotten'"
    )
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE everstep.event IN ACCESS EXCLUSIVE MODE")
        await worker(lease_ttl=1.5)
        await eventually(lambda: sql(looks))
    # What took 0.3 seconds has a pause of 9 behind it, where a sweep is due each half second.
    await eventually(lambda: sql.one(next_in) > 1)


@pytest.mark.slow
async def test_who_read_an_event_long_ago_is_not_remembered_for_ever(worker, client, sql):
    """A workflow without an end has readers without an end."""
    app = App("test")

    @app.workflow
    async def board() -> None:
        await everstep.set_event("news", 1)
        await everstep.recv("stop")

    @app.workflow
    async def reader() -> int:
        return await everstep.get_event("board", "news")

    await worker(app, concurrency=50)
    endless = await client.start(board, id="board")
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.event"))
    for _ in range(5):
        handles = await client.start_many(reader, [()] * 100)
        assert set(await asyncio.gather(*[handle.result(30) for handle in handles])) == {1}
    assert sql.one("SELECT cardinality(waiters) FROM everstep.run WHERE id = 'board'") < 300
    await client.send("board", 1, topic="stop")
    await endless.result(30)
