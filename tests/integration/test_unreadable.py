"""A worker whose codec is wrong or missing loses nothing: it leaves what it cannot read to others, and says so."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from conftest import StartWorker
from support.cipher import KEY, Sealed
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client, PayloadPlace, WorkflowCancelledError, WorkflowError, sync
from everstep.durable.unreadable import AGAIN_SECONDS, HELD_SECONDS


class Away(Sealed):
    """Its keys cannot be had."""

    def decode(self, body: bytes, place: PayloadPlace) -> bytes:  # noqa: ARG002
        raise ConnectionError("the vault is closed")


class Careless(Sealed):
    """Does not notice that its key is the wrong one: what it gives is anything but JSON."""

    def decode(self, body: bytes, place: PayloadPlace) -> bytes:  # noqa: ARG002
        return b"\x93" * len(body)


WRONG = {
    "none": (None, "none is configured here"),
    "another id": (Sealed(id=101), "101 is configured"),
    "another key": (Sealed(KEY[::-1]), "InvalidTag"),
    "no key": (Away(), "the vault is closed"),
    "garbage": (Careless(), "JSON is malformed"),
}

LIVE = ("result", "event", "message")


@dataclass
class Seen:
    """What the code of a workflow has done, and whether it was bothered."""

    steps: int = 0
    errors: int = 0


async def hear(app: App, kind: str) -> str:
    match kind:
        case "result":
            (worker,) = app.workers
            return str(await worker.client.handle_named("other").result())
        case "event":
            return str(await everstep.get_event("other", "said"))
        case _:
            return await everstep.recv("said", as_type=str, timeout=timedelta(days=1))


def flows(codec: Sealed | None, seen: Seen) -> App:
    """`tell` has one kind of payload in its log, or meets it live; `other` makes what it reads."""
    app = App("test", codec=codec)

    @app.step
    async def step(word: str) -> str:
        seen.steps += 1
        return word

    @app.transaction
    async def transact(tx: everstep.Connection, word: str) -> str:
        seen.steps += 1
        return word

    @app.workflow(name="other")
    async def other(word: str) -> str:
        await everstep.set_event("said", word)
        return word

    @app.workflow(name="tell")
    async def tell(kind: str, lasts: bool = False) -> str:
        try:
            said = await (
                step("word")
                if kind == "step"
                else transact("word")
                if kind == "transaction"
                else hear(app, kind)
            )
            if lasts:
                await everstep.sleep(timedelta(hours=1))
        except Exception:
            seen.errors += 1  # code that catches everything is not to hear of it
            raise
        return said

    @app.workflow(name="records_nothing")
    async def records_nothing(word: str) -> str:
        return word

    return app


def endless(codec: Sealed | None) -> App:
    app = App("test", codec=codec)

    @app.workflow(name="again")
    async def again(left: int) -> int:
        await everstep.sleep(timedelta(hours=1))
        return left and everstep.continue_as_new(left - 1)

    return app


@pytest.fixture
async def sealing(database: str):
    async with Client.connect(database, codec=Sealed()) as client:
        yield client


async def left_to_others(sql: Sql, id_: str) -> Any:
    """Once the workflow waits for a worker that can read it."""

    def waits() -> Any:
        rows = sql(
            "SELECT status, waits_for, wake_at - everstep.clock() AS still, crashes FROM everstep.workflows"
            " WHERE id = %s AND (finished_at IS NOT NULL OR waits_for LIKE 'codec:%%')",
            [id_],
        )
        return rows and rows[0]

    return await eventually(waits)


async def check_left(sql: Sql, caplog: pytest.LogCaptureFixture, id_: str, *says: str) -> None:
    row = await left_to_others(sql, id_)
    assert (row.status, row.waits_for, row.crashes) == ("waiting", "codec:100", 0)
    assert timedelta(0) < row.still <= timedelta(seconds=AGAIN_SECONDS)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    for word in (f"workflow {id_!r}", "codec", "tried again", *says):
        assert word in errors[0]


@pytest.mark.parametrize("how", WRONG)
async def test_an_input_that_a_worker_cannot_read_is_left_to_others(
    how: str,
    database: str,
    worker: StartWorker,
    sealing: Client,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    codec, why = WRONG[how]
    wrong, right = flows(codec, seen), flows(Sealed(), seen)
    handle = await sealing.start(right.workflows["tell"], "step", id="t")
    mistaken = await worker(wrong)
    async with Client.connect(database) as plain:
        # What it can read goes on meanwhile.
        await plain.start(wrong.workflows["records_nothing"], "word", id="o")
        await eventually(
            lambda: sql.one("SELECT status FROM everstep.workflow WHERE id = 'o'") == 1
        )
    await check_left(sql, caplog, "t", "input", why)
    assert seen == Seen()
    await mistaken.stop()
    sql.advance_clock(AGAIN_SECONDS + 1)
    await worker(right)
    assert await handle.result(30) == "word"
    assert seen == Seen(steps=1)


@pytest.mark.parametrize("kind", ["step", "transaction", *LIVE])
async def test_a_checkpoint_that_a_worker_cannot_read_is_left_to_others(
    kind: str,
    database: str,
    worker: StartWorker,
    sealing: Client,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    wrong, right = flows(Sealed(KEY[::-1]), seen), flows(Sealed(), seen)
    first = await worker(right)
    await (await sealing.start(right.workflows["other"], "word", id="other")).result(30)
    async with Client.connect(database) as plain:
        await plain.start(right.workflows["tell"], kind, True, id="t")
    await sealing.send("t", "word", topic="said")
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE wait_key = 'sleep'"))
    await first.stop()
    sql.advance_clock(3601)
    mistaken = await worker(wrong)
    position = {"message": "receive 2", "event": "event 1"}.get(kind, f"{kind} 1")
    await check_left(sql, caplog, "t", position.replace(" ", " :"), "InvalidTag")
    assert seen.errors == 0
    await mistaken.stop()
    sql.advance_clock(3602 + AGAIN_SECONDS)
    await worker(right)
    assert await sealing.handle(right.workflows["tell"], "t").result(30) == "word"
    assert seen == Seen(steps=kind in ("step", "transaction"))


@pytest.mark.parametrize("kind", LIVE)
async def test_what_a_worker_hears_and_cannot_read_waits_for_one_that_can(
    kind: str,
    database: str,
    worker: StartWorker,
    sealing: Client,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    wrong, right = flows(Sealed(KEY[::-1]), seen), flows(Sealed(), seen)
    first = await worker(right)
    await (await sealing.start(right.workflows["other"], "word", id="other")).result(30)
    await first.stop()
    mistaken = await worker(wrong)
    async with Client.connect(database) as plain:
        await plain.start(wrong.workflows["tell"], kind, id="t")
    await sealing.send("t", "word", topic="said")
    row = await left_to_others(sql, "t")
    assert (row.status, row.waits_for) == ("waiting", "codec:100")
    assert seen.errors == 0
    assert "InvalidTag" in caplog.text
    await mistaken.stop()
    sql.advance_clock(AGAIN_SECONDS + 1)
    await worker(right)
    assert await sealing.handle(right.workflows["tell"], "t").result(30) == "word"


async def test_the_input_of_a_later_generation_is_left_to_others(
    database: str,
    worker: StartWorker,
    sealing: Client,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = endless(Sealed())
    first = await worker(right)
    async with Client.connect(database) as plain:
        await plain.start(right.workflows["again"], 1, id="a")
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE wait_key = 'sleep'"))
    await first.stop()
    sql.advance_clock(3601)
    second = await worker(right)
    await eventually(
        lambda: sql("SELECT 1 FROM everstep.run WHERE wait_key = 'sleep' AND generation = 1")
    )
    await second.stop()
    sql.advance_clock(7203)
    mistaken = await worker(endless(None))
    await check_left(sql, caplog, "a", "continue ~1:1")
    await mistaken.stop()
    sql.advance_clock(7204 + AGAIN_SECONDS)
    await worker(right)
    assert await sealing.handle(right.workflows["again"], "a").result(30) == 0


@pytest.mark.slow
async def test_a_right_worker_beside_a_wrong_one_gets_everything_done(
    worker: StartWorker, sealing: Client, sql: Sql
) -> None:
    seen, places = Seen(), 2
    right = flows(Sealed(), seen)
    began = time.monotonic()
    await worker(flows(Sealed(KEY[::-1]), seen), concurrency=places)
    handles = [await sealing.start(right.workflows["tell"], "step", id=f"t{n}") for n in range(200)]
    await worker(right)
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 1") == 0)
    left = sql.one("SELECT count(*) FROM everstep.run WHERE wait_key LIKE 'codec:%'")
    # It is no hole into which everything falls: what it could not read holds a place of its for a while.
    assert left <= places * (time.monotonic() - began) / HELD_SECONDS
    seconds = 0.0

    def none_left() -> bool:
        nonlocal seconds
        seconds += AGAIN_SECONDS + 1
        sql.advance_clock(seconds)
        return not sql.one("SELECT count(*) FROM everstep.run")

    # Whom the rest falls to each time is chance.
    await eventually(none_left, pause=0.5)
    for handle in handles:
        assert await handle.result(30) == "word"
    assert seen == Seen(steps=200)


async def test_steps_of_other_branches_end_and_are_recorded(
    database: str, worker: StartWorker, sealing: Client, sql: Sql
) -> None:
    may_end, runs = asyncio.Event(), 0

    def both(codec: Sealed | None) -> App:
        app = App("test", codec=codec)

        @app.step(at_most_once=True)
        async def slow() -> int:
            nonlocal runs
            runs += 1
            await may_end.wait()
            return runs

        @app.workflow(name="flow")
        async def flow() -> list[Any]:
            return list(await asyncio.gather(slow(), everstep.recv("said")))

        return app

    wrong = both(None)
    mistaken = await worker(wrong)
    async with Client.connect(database) as plain:
        await plain.start(wrong.workflows["flow"], id="f")
    await sealing.send("f", "word", topic="said")
    await eventually(lambda: runs)
    may_end.set()
    await left_to_others(sql, "f")
    await mistaken.stop()
    sql.advance_clock(AGAIN_SECONDS + 1)
    await worker(both(Sealed()))
    assert await sealing.handle_named("f").result(30) == [1, "word"]
    assert runs == 1


async def test_a_plain_workflow_hears_nothing_of_it_either(
    database: str, worker: StartWorker, sealing: Client, sql: Sql
) -> None:
    errors: list[Exception] = []

    def plain_app(codec: Sealed | None) -> App:
        app = App("test", codec=codec)

        @app.workflow(name="flow")
        def flow() -> str:
            try:
                return sync.recv("said", as_type=str, timeout=timedelta(minutes=1))
            except Exception as error:
                errors.append(error)
                raise

        return app

    wrong = plain_app(None)
    mistaken = await worker(wrong)
    async with Client.connect(database) as plain:
        await plain.start(wrong.workflows["flow"], id="f")
    await sealing.send("f", "word", topic="said")
    await left_to_others(sql, "f")
    await mistaken.stop()
    # What has come in time is not late, however long it takes until somebody can read it.
    sql.advance_clock(120)
    mistaken = await worker(wrong)
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3 AND epoch > 2"))
    await mistaken.stop()
    sql.advance_clock(240)
    await worker(plain_app(Sealed()))
    assert await sealing.handle_named("f").result(30) == "word"
    assert errors == []


async def test_a_workflow_that_waits_for_a_reader_can_be_cancelled(
    worker: StartWorker, sealing: Client, sql: Sql
) -> None:
    wrong = flows(Sealed(KEY[::-1]), Seen())
    held = await sealing.start(wrong.workflows["tell"], "step", id="held")
    parked = await sealing.start(wrong.workflows["tell"], "step", id="parked")
    await worker(wrong)
    # Held for a moment first; where that was missed, it is parked like the other.
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE id = 'held' AND epoch > 0"))
    await held.cancel()
    await left_to_others(sql, "parked")
    await parked.cancel()
    for handle in (held, parked):
        await eventually(
            lambda: sql.one("SELECT status FROM everstep.workflow WHERE id = %s", [handle.id])  # noqa: B023
        )
        assert (await handle.info()).status == "cancelled"
    with pytest.raises(WorkflowCancelledError):
        await parked.result(30)


async def test_a_type_that_does_not_fit_fails_the_workflow_as_ever(
    worker: StartWorker, sealing: Client
) -> None:
    app, older = App("test", codec=Sealed()), App("older")

    @app.workflow(name="flow")
    async def flow(number: int) -> int:
        return number

    @older.workflow(name="flow")
    async def flow_before(number: str) -> str:
        return number

    @app.workflow
    async def hears() -> int:
        return await everstep.recv("said", as_type=int)

    await worker(app)
    with pytest.raises(WorkflowError, match="does not fit its annotation"):
        await (await sealing.start(flow_before, "one")).result(30)
    handle = await sealing.start(hears)
    await sealing.send(handle.id, "one", topic="said")
    with pytest.raises(WorkflowError, match="does not fit its annotation"):
        await handle.result(30)
