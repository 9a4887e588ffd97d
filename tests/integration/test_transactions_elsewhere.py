"""Transactions on another database: lost replies at every boundary, races, and the ways it may be out of reach."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from conftest import StartWorker
from support.database import Sql
from support.elsewhere import Elsewhere, another_database
from support.proxy import Proxy, proxy_to
from support.server import Server, free_port
from support.waiting import eventually

import everstep
from everstep import App, Client, Database, Settings, StepError, Worker
from everstep.codec import Payload
from everstep.errors import DatabaseRefusedError, Fenced, UsageError, WorkflowError
from everstep.store import tries
from everstep.store.places import Isolation, Mark, Place
from everstep.store.records import Records
from everstep.store.transactions import Transactor


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[Elsewhere]:
    with another_database(postgres) as there:
        yield there


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with proxy_to(postgres.port) as proxy:
        yield proxy


def bookings(app: App, there: Database | None) -> Any:
    """A workflow that books a number once in vain and once for good, each call of the function counted."""

    @app.transaction(database=there)
    async def book(tx: everstep.Connection, number: int) -> int:
        await tx.execute("INSERT INTO booked VALUES (%s)", [number])
        return number

    @app.workflow(name="buy")
    async def buy(number: int) -> int:
        return await book(number)

    return buy


def plain_bookings(app: App, there: Database) -> Any:
    @app.transaction(database=there)
    def book(tx: everstep.PlainConnection, number: int) -> int:
        tx.execute("INSERT INTO booked VALUES (%s)", [number])
        return number

    @app.workflow(name="buy")
    def buy(number: int) -> int:
        return book(number)

    return buy


BOUNDARIES = {
    "begin": b"SET LOCAL idle_in_transaction",
    "the user's": b"INTO booked",
    "record": b"INTO public.everstep_transaction",
    "commit": b"COMMIT\0",  # and not READ COMMITTED
}


@pytest.mark.parametrize("make", [bookings, plain_bookings], ids=["async", "plain"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_a_lost_reply_there_changes_nothing(
    app: App,
    worker: StartWorker,
    client: Client,
    postgres: Server,
    elsewhere: Elsewhere,
    proxy: Proxy,
    boundary: str,
    make: Callable[..., Any],
) -> None:
    """The table takes each number once: a second execution of a committed transaction fails."""
    buy = make(app, Database("ledger", postgres.tcp_url(elsewhere.name, proxy.port)))
    await worker()
    assert await (await client.start(buy, 1)).result(30) == 1
    proxy.lose_reply_to(BOUNDARIES[boundary])
    assert await (await client.start(buy, 2)).result(30) == 2
    assert len(proxy.lost) == 1
    assert elsewhere.booked == [1, 2]
    assert elsewhere.sql.one("SELECT count(*) FROM everstep_transaction") == 2


async def test_a_lost_commit_in_the_engines_database_is_no_failure(
    app: App, database: str, postgres: Server, client: Client, sql: Sql, proxy: Proxy
) -> None:
    """Tried again, the function meets its own row; that is not its outcome."""
    sql("CREATE TABLE booked (n int UNIQUE)")
    buy = bookings(app, None)
    name = str(sql.one("SELECT current_database()"))
    settings = Settings(url=postgres.tcp_url(name, proxy.port), grace=2)
    async with Worker(app, settings):
        proxy.lose_reply_to(BOUNDARIES["commit"])
        assert await (await client.start(buy, 1)).result(30) == 1
    assert len(proxy.lost) == 1
    assert sql.one("SELECT count(*) FROM booked") == 1


@pytest.mark.parametrize("which", [1, 2], ids=["mark", "checkpoint"])
async def test_a_lost_reply_of_the_engines_changes_nothing(
    app: App,
    database: str,
    postgres: Server,
    client: Client,
    elsewhere: Elsewhere,
    sql: Sql,
    proxy: Proxy,
    which: int,
) -> None:
    buy = bookings(app, Database("ledger", elsewhere.url))
    name = str(sql.one("SELECT current_database()"))
    settings = Settings(url=postgres.tcp_url(name, proxy.port), grace=2)
    seen: list[bytes] = []

    def nth(request: bytes) -> bool:
        if b"w-42" in request and b"book" in request and b"unnest" not in request:
            seen.append(request)
        return len(seen) == which

    async with Worker(app, settings):
        # A first workflow has the commit prepared: from then on requests hold parameters only.
        await (await client.start(buy, 1)).result(30)
        proxy.lose = nth
        assert await (await client.start(buy, 2, id="w-42")).result(30) == 2
    assert len(proxy.lost) == 1
    assert elsewhere.booked == [1, 2]
    assert sql.one("SELECT count(*) FROM everstep.checkpoint WHERE workflow_id = 'w-42'") == 2


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.no_replay("counts replays")
async def test_a_replay_without_a_checkpoint_finds_the_record(
    app: App,
    worker: StartWorker,
    client: Client,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    restarted: bool,
) -> None:
    """Its owner is gone after the commit there. Begun anew after a failure, it is another transaction."""
    ran: list[int] = []
    calls: list[int] = []
    run = Transactor.run

    @app.transaction(database=Database("ledger", elsewhere.url))
    async def book(tx: everstep.Connection, number: int) -> int:
        ran.append(number)
        await tx.execute("INSERT INTO booked VALUES (%s)", [number + len(ran)])
        return len(ran)

    @app.workflow(name="buy")
    async def buy(number: int) -> int:
        calls.append(number)
        booked = await book(number)
        if restarted and len(ran) == 1:
            raise ValueError("not yet")
        return booked

    async def lost(self: Transactor, place: Place, call: Any) -> Any:
        value = await run(self, place, call)
        if len(calls) == 1:
            raise Fenced
        return value

    monkeypatch.setattr(Transactor, "run", lost)
    await worker(lease_ttl=0.9)
    handle = await client.start(buy, 10, id="w")
    if restarted:
        with pytest.raises(WorkflowError, match="not yet"):
            await handle.result(30)
        handle = await client.start(buy, 10, id="w", on_existing="restart")
    assert await handle.result(30) == (2 if restarted else 1)
    assert elsewhere.booked == ([11, 12] if restarted else [11])
    assert len(calls) == (3 if restarted else 2)


# -- races and mutants ---------------------------------------------------------------------------


@asynccontextmanager
async def two_transactors(url: str, change: Callable[[Records], None]):
    """Two workers of one workflow: the second took it over from a first that goes on."""
    books = [Records("ledger", "public", "test") for _ in range(2)]
    for book in books:
        change(book)
    pair = [Transactor(url, book, connections=2) for book in books]
    try:
        yield pair
    finally:
        for each in pair:
            await each.close()


def place_of(key: Mark, isolation: Isolation = Isolation.READ_COMMITTED) -> Place:
    return Place(
        workflow_id="w",
        epoch=1,
        branch="",
        seq=2,
        name="book",
        attempt=1,
        payload=Payload(int, "result"),
        max_payload=1_000,
        isolation=isolation,
        check=lambda: None,
        mark=key,
    )


async def race(
    elsewhere: Elsewhere,
    rng: random.Random,
    trials: int,
    change: Callable[[Records], None] = lambda _: None,
) -> None:
    """An owner and a zombie at once; then the owner's connection is lost right before its commit."""
    elsewhere.sql("CREATE TABLE IF NOT EXISTS effect (n int, who int)")
    async with two_transactors(elsewhere.url, change) as (one, two):
        for n in range(trials):
            seen = [Mark(uuid4(), seen=False)]
            seen.append(Mark(seen[0].key, seen=True))
            isolation = rng.choice(list(Isolation))
            losing = [n] if rng.random() < 0.3 else []

            async def effect(
                tx: everstep.Connection, who: int, n: int = n, losing: Any = losing
            ) -> int:
                await asyncio.sleep(rng.uniform(0, 0.004))
                await tx.execute("INSERT INTO effect VALUES (%s, %s)", [n, who])
                await asyncio.sleep(rng.uniform(0, 0.004))
                if losing:
                    losing.clear()
                    await lose_at_the_commit(tx)
                return who

            got = await asyncio.gather(
                one.run(place_of(seen[0], isolation), lambda tx, e=effect: e(tx, 1)),
                two.run(place_of(seen[1], isolation), lambda tx, e=effect: e(tx, 2)),
            )
            rows = elsewhere.sql("SELECT who FROM effect WHERE n = %s", [n])
            assert [row.who for row in rows] == got[:1]
            assert got[0] == got[1]


async def lose_at_the_commit(tx: everstep.Connection) -> None:
    """The server ends the session when it comes to the commit: everything before it has been done in vain."""
    await tx.execute(
        "CREATE TEMPORARY TABLE doomed (n int) ON COMMIT DROP; "
        "CREATE FUNCTION pg_temp.die() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON doomed DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION pg_temp.die(); "
        "INSERT INTO doomed VALUES (1)"
    )


async def test_an_owner_and_a_zombie_do_it_once(elsewhere: Elsewhere, rng: random.Random) -> None:
    await race(elsewhere, rng, 60)


async def test_an_error_that_the_first_one_causes_is_not_believed(elsewhere: Elsewhere) -> None:
    """The second waits for a row of the first, and fails because the first commits: it was done."""
    inside, go, mark = asyncio.Event(), asyncio.Event(), Mark(uuid4())

    async def first(tx: everstep.Connection) -> int:
        await tx.execute("INSERT INTO booked VALUES (7)")
        inside.set()
        await go.wait()
        return 1

    async def second(tx: everstep.Connection) -> int:
        await tx.execute("INSERT INTO booked VALUES (7)")
        return 2

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with two_transactors(elsewhere.url, lambda _: None) as (one, two):
        running = [asyncio.create_task(one.run(place_of(mark), first))]
        await inside.wait()
        running.append(asyncio.create_task(two.run(place_of(mark), second)))
        await eventually(lambda: elsewhere.sql.one(waiting) == 1)
        go.set()
        assert await asyncio.gather(*running) == [1, 1]
    assert elsewhere.booked == [7]


def conflict_ignored(book: Records) -> None:
    text = b"ON CONFLICT (key, workflow_id) DO NOTHING"
    assert text in book.record
    book.record = book.record.replace(
        text, b"ON CONFLICT (key, workflow_id) DO UPDATE SET app = 't'"
    )


def no_record(book: Records) -> None:
    book.record = b"SELECT 1"


MUTANTS = {"the conflict is ignored": conflict_ignored, "nothing is recorded": no_record}


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_the_race_kills_a_mutant(
    elsewhere: Elsewhere, rng: random.Random, mutant: str
) -> None:
    with pytest.raises((AssertionError, AttributeError)):
        await race(elsewhere, rng, 200, MUTANTS[mutant])


async def test_the_race_kills_a_record_that_commits_by_itself(
    elsewhere: Elsewhere, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    from everstep.store import transactions

    ask = transactions.async_row_of

    async def apart(tx: Any, statement: bytes, arguments: Any) -> Any:
        if b"INTO public.everstep_transaction" not in statement:
            return await ask(tx, statement, arguments)
        async with await psycopg.AsyncConnection.connect(elsewhere.url, autocommit=True) as own:
            return await ask(own, statement, arguments)

    monkeypatch.setattr(transactions, "async_row_of", apart)
    with pytest.raises(AssertionError):
        await race(elsewhere, rng, 200)


# -- out of reach --------------------------------------------------------------------------------


async def test_a_database_that_is_away_stops_nothing_else(
    app: App,
    worker: StartWorker,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tries, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr("everstep.store.transactions.PATIENCE_SECONDS", 0.5)
    address = f"postgresql://ann:secret@127.0.0.1:{free_port()}/gone"
    buy = bookings(app, Database("ledger", address))

    @app.workflow
    async def other() -> str:
        return "done"

    with caplog.at_level(logging.WARNING, "everstep"):
        await worker()
        waiting = await client.start(buy, 1)
        assert await (await client.start(other)).result(30) == "done"
        with pytest.raises(WorkflowError, match="cannot connect to Postgres at 127"):
            await waiting.result(30)
        await eventually(lambda: "database ledger" in caplog.text)
    assert "here. Transactions on it are tried" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in repr(app.databases)


async def test_it_is_back_in_time(
    app: App,
    worker: StartWorker,
    client: Client,
    postgres: Server,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A workflow that began while the database was away goes on by itself."""
    monkeypatch.setattr("everstep.store.transactions.PATIENCE_SECONDS", 0.3)
    away, port = asyncio.Event(), free_port()
    looked = Transactor._look_for_it

    async def looking(self: Transactor, tries: Any) -> None:
        away.set()
        await looked(self, tries)

    monkeypatch.setattr(Transactor, "_look_for_it", looking)
    buy = bookings(app, Database("ledger", postgres.tcp_url(elsewhere.name, port)))
    await worker()
    waiting = await client.start(buy, 1)
    await away.wait()
    proxy = Proxy(postgres.port, port)
    try:
        assert await waiting.result(30) == 1
    finally:
        proxy.close()


async def test_an_address_that_nobody_tells_is_an_error_at_start(
    app: App, database: str, monkeypatch: pytest.MonkeyPatch, elsewhere: Elsewhere
) -> None:
    bookings(app, Database("ledger"))
    with pytest.raises(UsageError, match="set EVERSTEP_DATABASE_URL_LEDGER"):
        Worker(app, Settings(url=database))
    monkeypatch.setenv("EVERSTEP_DATABASE_URL_LEDGER", elsewhere.url)
    Worker(app, Settings(url=database))
    with pytest.raises(UsageError, match="two databases named ledger"):
        app.transaction(database=Database("ledger", "host=elsewhere"))(lambda _: None)
    with pytest.raises(UsageError, match="lower-case"):
        Database("My ledger")


async def test_a_role_that_may_not_make_the_table_is_told_what_to_have_made(
    elsewhere: Elsewhere, postgres: Server
) -> None:
    role = f"booker_{elsewhere.name}"
    elsewhere.sql(f"CREATE ROLE {role} LOGIN")
    elsewhere.sql(f"REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT INSERT ON booked TO {role}")
    url = elsewhere.url.replace("postgres@", f"{role}@")
    transactor = Transactor(url, Records("ledger", "public", "test"), connections=1)

    async def effect(tx: everstep.Connection) -> int:
        await tx.execute("INSERT INTO booked VALUES (7)")
        return 7

    try:
        with pytest.raises(DatabaseRefusedError, match="Have it made once") as refused:
            await transactor.greet()
        told = str(refused.value).split("\n\n", 1)[1]
        assert told.startswith("CREATE TABLE")
        # What the error says to do is enough, and no more than that is needed.
        elsewhere.sql(told)
        await transactor.greet()
        assert await transactor.run(place_of(Mark(uuid4())), effect) == 7
    finally:
        await transactor.close()
        elsewhere.sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert elsewhere.booked == [7]


async def test_a_failed_transaction_may_be_tried_again_by_its_policy(
    app: App, worker: StartWorker, client: Client, elsewhere: Elsewhere
) -> None:
    tries: list[int] = []

    @app.transaction(
        database=Database("ledger", elsewhere.url),
        retry=everstep.Retry(max_attempts=3, backoff=1.0),
    )
    async def book(tx: everstep.Connection) -> int:
        await tx.execute("INSERT INTO booked VALUES (1)")
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    @app.transaction(database=Database("ledger", elsewhere.url))
    async def twice(tx: everstep.Connection) -> None:
        await tx.execute("INSERT INTO booked VALUES (1)")

    @app.workflow
    async def buy() -> int:
        booked = await book()
        with pytest.raises(StepError, match="UniqueViolation"):
            await twice()
        return booked

    await worker()
    assert await (await client.start(buy)).result(30) == 3
    assert elsewhere.booked == [1]
