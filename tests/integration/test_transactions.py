"""Transactions, in the engine's database and in another, in every form of connection: exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from conftest import StartWorker
from sqlalchemy import Connection as AlchemyConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from support.database import Sql
from support.elsewhere import Elsewhere, another_database
from support.server import Server

import everstep
from everstep import App, Client, Database, Isolation, Retry, StepError, WorkflowError
from everstep.errors import UsageError


class Base(DeclarativeBase):
    pass


class Booking(Base):
    __tablename__ = "booked"
    n: Mapped[int] = mapped_column(primary_key=True)


INSERT = "INSERT INTO booked VALUES (%s)"
INSERT_TEXT = text("INSERT INTO booked VALUES (:n)")


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[Elsewhere]:
    with another_database(postgres) as there:
        yield there


@pytest.fixture(params=["here", "elsewhere"])
def target(request: pytest.FixtureRequest, sql: Sql, elsewhere: Sql) -> tuple[Database | None, Sql]:
    """Where the transactions run: the engine's database, or another."""
    if request.param == "here":
        sql("CREATE TABLE booked (n int UNIQUE)")
        return None, sql
    return Database("ledger", elsewhere.url), elsewhere.sql


def flows_of(app: App, database: Database | None, form: str) -> Any:
    """A workflow that books 1, and then 2 in vain."""
    book: Any
    if form == "psycopg":

        @app.transaction(database=database, name="book")
        async def with_psycopg(tx: everstep.Connection, n: int) -> int:
            await tx.execute(INSERT, [n])
            return checked(n)

        book = with_psycopg
    elif form == "AsyncSession":

        @app.transaction(database=database, name="book")
        async def with_session(session: AsyncSession, n: int) -> int:
            await session.execute(INSERT_TEXT, {"n": n})
            return checked(n)

        book = with_session
    else:

        @app.transaction(database=database, name="book")
        async def with_connection(connection: AsyncConnection, n: int) -> int:
            await connection.execute(INSERT_TEXT, {"n": n})
            return checked(n)

        book = with_connection

    @app.workflow
    async def buy() -> str:
        return await in_vain(await book(1), book)

    async def in_vain(number: int, book: Any) -> str:
        try:
            await book(number + 1)
        except StepError as error:
            return error.failure.message
        return "?"

    return buy


def checked(n: int) -> int:
    if n == 2:
        raise ValueError("two is refused")
    return n


def plain_flows_of(app: App, database: Database | None, form: str) -> Any:
    book: Any
    if form == "psycopg":

        @app.transaction(database=database, name="book")
        def with_psycopg(tx: everstep.PlainConnection, n: int) -> int:
            tx.execute(INSERT, [n])
            return checked(n)

        book = with_psycopg
    elif form == "Session":

        @app.transaction(database=database, name="book")
        def with_session(session: Session, n: int) -> int:
            session.execute(INSERT_TEXT, {"n": n})
            return checked(n)

        book = with_session
    else:

        @app.transaction(database=database, name="book")
        def with_connection(connection: AlchemyConnection, n: int) -> int:
            connection.execute(INSERT_TEXT, {"n": n})
            return checked(n)

        book = with_connection

    @app.workflow
    def buy() -> str:
        try:
            book(book(1) + 1)
        except StepError as error:
            return error.failure.message
        return "?"

    return buy


FORMS = {
    flows_of: ["psycopg", "AsyncSession", "AsyncConnection"],
    plain_flows_of: ["psycopg", "Session", "Connection"],
}


@pytest.mark.parametrize(
    ("flows", "form"),
    [(flows, form) for flows, forms in FORMS.items() for form in forms],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
async def test_it_commits_with_its_record_or_not_at_all(
    app: App,
    worker: StartWorker,
    client: Client,
    target: tuple[Database | None, Sql],
    flows: Callable[[App, Database | None, str], Any],
    form: str,
) -> None:
    database, there = target
    buy = flows(app, database, form)
    await worker()
    handle = await client.start(buy)
    assert await handle.result(30) == "two is refused"
    assert [row[0] for row in there("SELECT n FROM booked")] == [1]
    kinds = [step.kind for step in await handle.steps()]
    if database is None:
        assert kinds == ["transaction", "transaction"]
    else:
        assert kinds == ["started", "transaction"] * 2
        (row,) = there("SELECT * FROM everstep_transaction")
        assert (row.workflow_id, row.branch, row.seq) == (handle.id, "", 2)
        assert (row.app, row.name, row.output) == ("test", "book", b"1")


async def test_options_at_the_call(app: App, worker: StartWorker, client: Client, sql: Sql) -> None:
    tries: list[str] = []

    @app.transaction
    async def level(tx: everstep.Connection) -> str:
        row = await (await tx.execute("SHOW transaction_isolation")).fetchone()
        assert row is not None
        tries.append(row[0])
        if len(tries) < 3:
            raise ValueError("again")
        return str(row[0])

    @app.workflow
    async def flow() -> str:
        again = Retry(max_attempts=3, interval=timedelta(0))
        return await level.options(
            name="its level", retry=again, isolation=Isolation.SERIALIZABLE
        )()

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "serializable"
    assert tries == ["serializable"] * 3
    assert [step.name for step in await handle.steps()] == ["its level"]


COMMITS = {
    "psycopg": lambda tx: tx.commit(),
    "psycopg rollback": lambda tx: tx.rollback(),
    "session": lambda session: session.commit(),
    "session rollback": lambda session: session.rollback(),
    "connection": lambda connection: connection.commit(),
    "sql": lambda tx: tx.execute("COMMIT"),
}
FORMS = {"session": AsyncSession, "connection": AsyncConnection}


@pytest.mark.parametrize("how", COMMITS)
async def test_the_function_cannot_end_its_transaction(
    app: App, worker: StartWorker, client: Client, elsewhere: Elsewhere, how: str
) -> None:
    async def ends(tx: Any) -> None:
        if isinstance(tx, AsyncSession | AsyncConnection):
            await tx.execute(INSERT_TEXT, {"n": 1})
        else:
            await tx.execute(INSERT, [1])
        await COMMITS[how](tx)

    ends.__annotations__["tx"] = FORMS.get(how.split(maxsplit=1)[0], everstep.Connection)
    transaction = app.transaction(database=Database("ledger", elsewhere.url))(ends)

    @app.workflow
    async def buy() -> None:
        await transaction()

    await worker()
    with pytest.raises(WorkflowError, match="to roll back, raise an exception"):
        await (await client.start(buy)).result(30)
    # A statement of the function's own that says COMMIT is one: the error comes too late to undo it.
    assert len(elsewhere.booked) == (1 if how == "sql" else 0)
    assert elsewhere.sql("SELECT FROM everstep_transaction") == []


async def test_a_failed_statement_that_is_swallowed_is_an_error(
    app: App, worker: StartWorker, client: Client, target: tuple[Database | None, Sql]
) -> None:
    database, there = target

    @app.transaction(database=database)
    async def careless(tx: everstep.Connection) -> int:
        await tx.execute(INSERT, [1])
        try:
            await tx.execute("SELECT 1/0")
        except Exception:  # noqa: BLE001
            return 1
        return 2

    @app.workflow
    async def buy() -> int:
        return await careless()

    await worker()
    with pytest.raises(WorkflowError, match="savepoint"):
        await (await client.start(buy)).result(30)
    assert there("SELECT n FROM booked") == []


async def test_a_session_sends_what_it_holds_back_before_the_commit(
    app: App, worker: StartWorker, client: Client, target: tuple[Database | None, Sql]
) -> None:
    database, there = target

    @app.transaction(database=database)
    async def add(session: AsyncSession, n: int) -> None:
        session.add(Booking(n=n))

    @app.transaction(database=database)
    async def twice(session: AsyncSession) -> int:
        async with session.begin_nested():
            session.add(Booking(n=8))
        return len((await session.scalars(text("SELECT n FROM booked"))).all())

    @app.workflow
    async def buy() -> int:
        await add(7)
        return await twice()

    await worker()
    assert await (await client.start(buy)).result(30) == 2
    assert sorted(row[0] for row in there("SELECT n FROM booked")) == [7, 8]


def test_the_first_parameter_has_the_colour_of_the_function(app: App) -> None:
    @app.transaction
    def wrong(session: AsyncSession) -> None:
        """Of the other colour."""

    with pytest.raises(UsageError, match="its first parameter is Session or Connection"):
        app.check()
