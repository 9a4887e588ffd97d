"""The codec hook: no payload is in a table as it was written, and each is what it was where it is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import StartWorker
from support.cipher import KEY, Sealed
from support.database import Sql
from support.elsewhere import another_database
from support.server import Server
from support.waiting import eventually

import everstep
from everstep import App, Client, Database, PayloadError, StepError, WorkflowError, sync
from everstep.errors import WorkflowConflictError

SECRET = "Schwarzgeld"
TABLES = ("workflow", "checkpoint", "message", "event", "stream")


@pytest.fixture
def codec() -> Sealed:
    return Sealed()


@pytest.fixture
def app(codec: Sealed) -> App:
    return App("test", codec=codec)


@pytest.fixture
async def client(database: str, codec: Sealed):
    async with Client.connect(database, codec=codec) as client:
        yield client


def plaintexts(sql: Sql, *words: str) -> list[str]:
    """Tables in which one of the words stands."""
    found = []
    for table in sql("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'everstep'"):
        for row in sql(f"SELECT to_jsonb(t)::text AS said FROM everstep.{table.name} t"):
            shown = row.said + "".join(
                bytes.fromhex(each).decode("latin-1")
                for each in re.findall(r"\\\\x([0-9a-f]+)", row.said)
            )
            found += [table.name for word in words if word in shown]
    return found


def talkative(app: App, runs: list[str]) -> Any:
    """A workflow in which every kind of payload is the secret."""

    @app.step
    async def step(word: str) -> str:
        return word

    @app.step
    async def failing(word: str) -> str:
        raise ValueError(word)

    @app.transaction
    async def transact(tx: everstep.Connection, word: str) -> str:
        return word

    @app.workflow(name="child")
    async def child(word: str) -> str:
        await everstep.set_event("said", word)
        await everstep.write_stream("said", word)
        await everstep.send("talk", word, topic="said")
        return word

    @app.workflow(name="failed")
    async def failed(word: str) -> None:
        raise ValueError(word)

    @app.workflow(name="talk")
    async def talk(word: str, again: bool = True) -> list[str]:
        said = [await step(word), await transact(word)]
        try:
            await failing(word)
        except StepError as error:
            said.append(error.failure.message)
        said.append(await child(word))
        said.append(await everstep.recv("said"))
        said.append(await everstep.recv("outside"))
        handle = await everstep.start(failed, word)
        try:
            await handle.result()
        except WorkflowError as error:
            said.append(error.failure.message)
        await everstep.set_event("heard", word)
        said.append(await everstep.get_event("talk", "heard"))
        await everstep.sleep(1.2)  # leaves the worker: all of it is replayed
        runs.append("".join(said))
        if again:
            everstep.continue_as_new(word, again=False)
        return said

    return talk


async def test_no_payload_is_in_any_table_as_it_was_written(
    app: App, worker: StartWorker, client: Client, codec: Sealed, sql: Sql, database: str
) -> None:
    runs: list[str] = []
    talk = talkative(app, runs)
    await worker()
    handle = await client.start(talk, SECRET, id="talk")
    await client.send("talk", SECRET, topic="outside")
    await client.send("talk", SECRET, topic="outside")
    assert await handle.result(30) == [SECRET] * 8
    assert runs == [SECRET * 8] * 2
    assert plaintexts(sql, SECRET) == []
    # The words looked for would be found: what is not a payload is there.
    assert set(plaintexts(sql, "outside")) == {"message", "checkpoint"}
    assert {place.kind for place in codec.places} == {
        "input", "result", "error", "message", "event", "stream",
        "step", "transaction", "receive", "continue",
    }  # fmt: skip
    with sync.Client.connect(database, codec=Sealed()) as plain:
        assert plain.handle(talk, "talk").result(30) == [SECRET] * 8


async def test_readers_outside_see_what_was_said(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def say(word: str) -> None:
        await everstep.set_event("said", word)
        for number in range(3):
            await everstep.write_stream("words", f"{word} {number}")

    @app.workflow
    async def fail(word: str) -> None:
        raise ValueError(word)

    await worker()
    handle = await client.start(say, SECRET, attributes={"colour": "plain"})
    assert await client.get_event(handle.id, "said", timeout=30) == SECRET
    assert [event.value for event in await client.events(handle.id)] == [SECRET]
    assert [each async for each in client.read_stream(handle.id, "words")] == [
        f"{SECRET} {number}" for number in range(3)
    ]
    with pytest.raises(WorkflowError, match=SECRET):
        await (await client.start(fail, SECRET, id="f")).result(30)
    # For people without the key there is nothing to see, and nothing breaks.
    (row,) = sql("SELECT * FROM everstep.workflows WHERE id = 'f'")
    assert (row.status, row.input, row.error_type, row.error_message) == (
        "failed",
        None,
        None,
        None,
    )
    assert {(row.output, row.error_type) for row in sql("SELECT * FROM everstep.steps")} == {
        (None, None)
    }
    (row,) = sql("SELECT * FROM everstep.workflows WHERE name <> 'fail' AND id <> 'f'")
    assert (row.input, row.output, row.attributes) == (None, None, {"colour": "plain"})


async def test_a_client_with_the_codec_shows_payloads_and_one_without_says_so(
    app: App, worker: StartWorker, client: Client, database: str, codec: Sealed
) -> None:
    runs: list[str] = []
    talk = talkative(app, runs)
    await worker()
    handle = await client.start(talk, SECRET, False, id="talk")
    debounced = await client.start(
        app.workflows["failed"], SECRET, debounce=everstep.Debounce("k", window=0.1)
    )
    for _ in range(2):
        await client.send("talk", SECRET, topic="outside")
    assert await handle.result(30) == [SECRET] * 8
    with pytest.raises(WorkflowError):
        await debounced.result(30)

    info = await handle.info()
    assert (info.input, info.output) == ({"word": SECRET, "again": False}, [SECRET] * 8)
    failed = await debounced.info()
    assert (failed.input, failed.output) == ({"word": SECRET}, None)
    assert (failed.error_type, failed.error_message) == ("ValueError", SECRET)
    assert SECRET in str(failed.error_traceback)
    steps = await handle.steps()
    assert {step.kind for step in steps if SECRET in (step.output, step.error_message)} == {
        "step", "transaction", "result", "receive", "publish", "event",
    }  # fmt: skip
    (listed,) = await client.list(everstep.Filter(name="failed", id_prefix=debounced.id))
    assert (listed.error_message, listed.error_traceback, listed.input) == (SECRET, None, None)

    unread = everstep.Encoded(100)
    async with Client.connect(database) as without:
        info = await without.handle_named("talk").info()
        assert (info.input, info.output) == (unread, unread)
        assert str(unread) == "encoded with codec 100"
        shown = [step.error_message or step.output for step in await without.steps("talk")]
        assert shown.count(unread) + shown.count(str(unread)) == sum(
            SECRET in (step.output, step.error_message) for step in steps
        )
        (listed,) = await without.list(everstep.Filter(id_prefix=debounced.id))
        assert (listed.error_type, listed.error_message) == (None, str(unread))
        assert [event.value for event in await without.events("talk")] == [unread]
    async with Client.connect(database, codec=Sealed(KEY[::-1])) as wrong:
        info = await wrong.handle_named("talk").info()
        assert "made with another key" in str(info.output)
        assert "InvalidTag" in str((await wrong.steps("talk"))[0].output)


async def test_what_a_log_sent_is_said_to_be_encoded(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def says(word: str) -> None:
        await everstep.send("nobody", word)

    @app.workflow(name="hears")
    async def hears() -> str:
        return await everstep.recv(as_type=str)

    await worker()
    await client.start(hears, id="nobody")
    handle = await client.start(says, SECRET)
    await handle.result(30)
    (step,) = await handle.steps()
    assert (step.kind, step.output.encoded_with_codec) == ("send", 100)
    assert "bound to its receiver" in step.output.problem


async def test_transactions_elsewhere_and_ticks(
    app: App, worker: StartWorker, client: Client, sql: Sql, postgres: Server
) -> None:
    with another_database(postgres) as there:

        @app.transaction(database=Database("there", there.url))
        async def elsewhere(tx: everstep.Connection, word: str) -> str:
            return word

        @app.workflow
        async def run(word: str) -> str:
            return await elsewhere(word)

        @app.schedule("0 7 * * *", name="daily")
        async def daily(tick: datetime) -> datetime:
            return tick

        await worker()
        assert await (await client.start(run, SECRET)).result(30) == SECRET
        assert SECRET.encode() not in there.sql.one("SELECT output FROM everstep_transaction")
        ids = (
            await client.schedules.backfill(
                "daily", datetime.now(UTC) - timedelta(days=2), datetime.now(UTC)
            )
        ).started
        ids.append(await client.schedules.trigger("daily"))
        for id_ in ids:
            tick = await client.handle(daily, id_).result(30)
            stored = sql.one("SELECT input FROM everstep.workflow WHERE id = %s", [id_])
            assert tick.isoformat().encode()[:10] not in stored
    assert plaintexts(sql, SECRET) == []


async def test_the_last_input_of_a_debounce_wins(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def flow(word: str) -> str:
        return word

    await worker()
    burst = everstep.Debounce("key", window=timedelta(seconds=60))
    first = await client.start(flow, "first", debounce=burst)
    last = await client.start(flow, SECRET, debounce=burst)
    assert (last.id, last.created) == (first.id, False)
    sql.advance_clock(61)
    assert await last.result(30) == SECRET
    assert plaintexts(sql, SECRET) == []


async def test_what_sends_and_publishes_is_replayed(
    app: App, worker: StartWorker, client: Client
) -> None:
    runs: list[int] = []

    @app.workflow
    async def hears() -> str:
        return await everstep.recv("said", as_type=str)

    @app.workflow
    async def says(word: str, to: str) -> int:
        await everstep.send(to, word, topic="said")
        await everstep.set_event("said", word)
        await everstep.write_stream("said", word)
        await everstep.sleep(1.2)  # leaves the worker: all of it is replayed
        runs.append(len(runs))
        return len(runs)

    await worker()
    listening = await client.start(hears)
    speaking = await client.start(says, SECRET, listening.id)
    assert await listening.result(30) == SECRET
    assert await speaking.result(30) == 1


SWAPS = {
    "inputs": "UPDATE everstep.workflow w SET input = o.input FROM everstep.workflow o"
    " WHERE (w.id, o.id) IN (('one', 'two'), ('two', 'one'))",
    "checkpoints": "UPDATE everstep.checkpoint w SET output = o.output FROM everstep.checkpoint o"
    " WHERE (w.workflow_id, o.workflow_id) IN (('one', 'two'), ('two', 'one')) AND w.kind = 1 AND o.kind = 1",
}


WAITS_FOR = "SELECT waits_for FROM everstep.workflows WHERE id = %s"


@pytest.mark.parametrize("what", SWAPS)
async def test_bodies_that_were_swapped_stop_their_workflows_and_no_other(
    app: App,
    worker: StartWorker,
    client: Client,
    sql: Sql,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    @app.step
    async def step(word: str) -> str:
        return word

    @app.workflow(name="w")
    async def flow(word: str) -> str:
        got = await step(word)
        await everstep.recv("go")
        return got

    first = await worker()
    handles = [await client.start(flow, word, id=word) for word in ("one", "two", "three")]
    if what == "checkpoints":
        await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == 3)
    await first.stop()
    if what == "inputs":
        sql("UPDATE everstep.run SET state = 1, worker_id = NULL WHERE state = 2")
    sql(SWAPS[what])
    await worker()
    for handle in handles:
        await client.send(handle.id, None, topic="go")
    assert await handles[2].result(30) == "three"
    # Nobody can tell this from a key that a worker lacks: they wait, and say so.
    for handle in handles[:2]:
        await eventually(lambda: sql.one(WAITS_FOR, [handle.id]) == "codec:100")  # noqa: B023
        assert f"workflow {handle.id!r} (w) is left to workers that can read it" in caplog.text
        assert await handle.cancel()
    assert "changed or moved" in caplog.text


async def test_another_key_or_none_says_what_to_configure(
    app: App, worker: StartWorker, client: Client, database: str
) -> None:
    @app.workflow(name="w")
    async def flow(word: str) -> str:
        return word

    await worker()
    assert await (await client.start(flow, SECRET, id="w")).result(30) == SECRET
    async with Client.connect(database) as without:
        with pytest.raises(
            PayloadError, match="encoded with codec 100, and none is configured here"
        ):
            await without.handle(flow, "w").result(30)
        with pytest.raises(PayloadError, match="codec="):
            await without.start(flow, SECRET, id="w")
    async with Client.connect(database, codec=Sealed(id=101)) as other:
        with pytest.raises(PayloadError, match="codec 100, and 101 is configured"):
            await other.handle(flow, "w").result(30)
    async with Client.connect(database, codec=Sealed(KEY[::-1])) as wrong:
        with pytest.raises(PayloadError, match="made with another key"):
            await wrong.handle(flow, "w").result(30)
    # The same input is the same, whatever its ciphertext.
    again = await client.start(flow, SECRET, id="w")
    assert not again.created
    with pytest.raises(WorkflowConflictError, match="has the input"):
        await client.start(flow, "other", id="w")


async def test_what_was_written_before_there_was_a_codec_stays_readable(
    app: App, database: str, worker: StartWorker, client: Client, sql: Sql
) -> None:
    """Begun without, gone on with: input and first step in JSON, the rest sealed."""

    def flows(app: App) -> Any:
        @app.step
        async def step(word: str) -> str:
            return word

        @app.workflow(name="w")
        async def flow(word: str) -> list[str]:
            first = await step(word)
            return [first, await everstep.recv("go"), await step(word)]

        return flow

    before = App("test")
    flow, flow_now = flows(before), flows(app)
    async with Client.connect(database) as plain:
        first = await worker(before)
        await plain.start(flow, "old", id="w")
        await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == 1)
        await first.stop()
        await worker()
        await plain.send("w", "old too", topic="go")
        assert await client.handle(flow_now, "w").result(30) == ["old", "old too", "old"]
    assert sql.one("SELECT everstep.start('w', '{\"word\": \"from SQL\"}', id => 's')") == "s"
    await client.send("s", "x", topic="go")
    assert await client.handle(flow_now, "s").result(30) == ["from SQL", "x", "from SQL"]
    codecs = sql("SELECT seq, codec FROM everstep.checkpoint WHERE workflow_id = 'w' ORDER BY seq")
    assert [row.codec for row in codecs] == [1, 100, 100]


async def test_a_codec_that_cannot_encode_fails_the_workflow_and_tells_nothing(
    database: str, worker: StartWorker, sql: Sql
) -> None:
    class Picky(Sealed):
        def encode(self, body: bytes, place: everstep.PayloadPlace) -> bytes:
            if place.kind != "input":
                raise KeyError("the vault is closed")
            return super().encode(body, place)

    app = App("picky", codec=Picky())

    @app.workflow(name="w")
    async def flow(word: str) -> str:
        return word

    await worker(app)
    async with Client.connect(database, codec=Picky()) as client:
        handle = await client.start(flow, SECRET, id="w")
        with pytest.raises(WorkflowError, match="the vault is closed"):
            await handle.result(30)
    assert plaintexts(sql, SECRET) == []
