"""What a workflow may say: messages, events, children, transactions, recorded values, deadlines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from conftest import StartWorker
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client, StepError, WorkflowError
from everstep.errors import (
    DuplicateWorkflowError,
    UnknownWorkflowError,
    WorkflowCancelledError,
    WorkflowExistsError,
    WorkflowTimeoutError,
)


async def test_a_message_is_received_once_and_in_order(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def listen(count: int) -> list[str]:
        return [await everstep.recv("news") for _ in range(count)]

    await worker()
    handle = await client.start(listen, 3)
    for text in ("a", "b", "c"):
        assert await client.send(handle.id, text, "news")
    assert await handle.result(30) == ["a", "b", "c"]
    assert sql.one("SELECT count(*) FROM everstep.message WHERE consumed_seq IS NULL") == 0


async def test_a_repeated_key_sends_one_message(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def listen() -> str:
        await everstep.recv("go")
        return str(await everstep.recv("news"))

    await worker()
    handle = await client.start(listen)
    for text in ("first", "second"):
        await client.send(handle.id, text, "news", key="once")
    await client.send(handle.id, None, "go")
    assert await handle.result(30) == "first"
    assert sql.one("SELECT count(*) FROM everstep.message") == 2


async def test_recv_times_out_from_when_it_was_first_reached(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def listen() -> str:
        try:
            await everstep.recv("never", timeout=0.3)
        except TimeoutError:
            return "timeout"
        return "message"

    await worker()
    handle = await client.start(listen)
    assert await handle.result(30) == "timeout"


async def test_sending_to_nobody_is_an_error_inside_and_outside(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def call(to: str) -> str:
        try:
            await everstep.send(to, "hello")
        except UnknownWorkflowError as error:
            return str(error)
        return "sent"

    await worker()
    handle = await client.start(call, "nobody")
    assert "no workflow with id 'nobody'" in await handle.result(30)
    with pytest.raises(UnknownWorkflowError, match="nobody"):
        await client.send("nobody", "hello")


async def test_two_workflows_talk(app: App, worker: StartWorker, client: Client) -> None:
    @app.workflow
    async def answer() -> str:
        question = await everstep.recv("question")
        await everstep.set_event("answer", question + 1)
        return "done"

    @app.workflow
    async def ask(of: str) -> int:
        await everstep.send(of, 41, "question")
        return int(await everstep.get_event(of, "answer"))

    await worker()
    one = await client.start(answer)
    two = await client.start(ask, one.id)
    assert await two.result(30) == 42
    assert await one.result(30) == "done"
    assert await client.get_event(one.id, "answer") == 42


async def test_an_event_that_never_comes_ends_with_its_workflow(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def silent() -> None:
        return None

    @app.workflow
    async def ask(of: str) -> str:
        try:
            await everstep.get_event(of, "answer")
        except TimeoutError as error:
            return str(error)
        return "?"

    await worker()
    one = await client.start(silent)
    await one.result(30)
    two = await client.start(ask, one.id)
    assert "before it finished" in await two.result(30)


async def test_children_inline_background_and_failing(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def child(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number * 2

    @app.workflow
    async def parent() -> list[int | str]:
        inline = await child(1)
        handles = [await everstep.start(child, n) for n in (2, 3)]
        background = [await handle.result() for handle in handles]
        try:
            await child(-1)
        except WorkflowError as error:
            return [inline, *background, error.failure.message]
        return []

    await worker()
    handle = await client.start(parent, id="p")
    assert await handle.result(30) == [2, 4, 6, "negative"]
    ids = [
        row[0] for row in sql("SELECT id FROM everstep.workflow WHERE parent_id = 'p' ORDER BY id")
    ]
    assert ids == ["p/1", "p/3", "p/4", "p/7"]


@pytest.mark.no_replay("300 results, each with 300 looks")
async def test_children_fan_out_by_gather(app: App, worker: StartWorker, client: Client) -> None:
    @app.workflow
    async def child(number: int) -> int:
        return number

    @app.workflow
    async def parent(count: int) -> int:
        return sum(await asyncio.gather(*(child(n) for n in range(count))))

    await worker()
    handle = await client.start(parent, 300)
    assert await handle.result(30) == sum(range(300))


async def test_cancel_reaches_children_and_whoever_waits(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def child() -> None:
        await everstep.recv("never")

    @app.workflow
    async def parent() -> None:
        await child()

    @app.workflow
    async def onlooker(of: str) -> str:
        try:
            await client.handle_named(of).result()
        except WorkflowCancelledError:
            return "cancelled"
        return "?"

    await worker()
    handle = await client.start(parent, id="p")
    looking = await client.start(onlooker, "p")
    await _until_waiting(client, "p/1")
    await handle.cancel()
    with pytest.raises(WorkflowCancelledError):
        await client.handle_named("p/1").result(30)
    with pytest.raises(WorkflowCancelledError):
        await handle.result(30)
    assert await looking.result(30) == "cancelled"


async def test_a_transaction_commits_with_its_checkpoint_or_not_at_all(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    sql("CREATE TABLE booked (n int)")

    @app.transaction
    async def book(tx: everstep.Connection, number: int) -> int:
        await tx.execute("INSERT INTO booked VALUES (%s)", [number])
        if number < 0:
            raise ValueError("negative")
        return number

    @app.workflow
    async def buy() -> str:
        await book(1)
        try:
            await book(-1)
        except StepError as error:
            return error.failure.message
        return "?"

    await worker()
    handle = await client.start(buy)
    assert await handle.result(30) == "negative"
    assert [row[0] for row in sql("SELECT n FROM booked")] == [1]
    assert [step.kind for step in await handle.steps()] == ["transaction", "transaction"]


async def test_a_plain_transaction_in_a_plain_workflow(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    sql("CREATE TABLE booked (n int)")

    @app.transaction
    def book(tx: everstep.PlainConnection, number: int) -> int:
        tx.execute("INSERT INTO booked VALUES (%s)", [number])
        return number

    @app.workflow
    def buy(number: int) -> int:
        return book(number) + 1

    await worker()
    assert await (await client.start(buy, 1)).result(30) == 2
    assert [row[0] for row in sql("SELECT n FROM booked")] == [1]


async def test_recorded_values_are_the_same_on_replay(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    runs: list[tuple[datetime, UUID, float]] = []

    @app.workflow
    async def values() -> bool:
        runs.append((await everstep.now(), await everstep.uuid(), await everstep.random()))
        await everstep.sleep(3600)  # parks: what follows runs after a replay
        return True

    await worker()
    handle = await client.start(values)
    await _until_waiting(client, handle.id)
    sql.advance_clock(3601)
    assert await handle.result(30)
    assert len(runs) >= 2
    assert set(runs) == {runs[0]}


async def test_as_completed_repeats_its_first_order(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    orders: list[list[int]] = []

    @app.step
    async def wait(number: int) -> int:
        await gates[number].wait()
        if number:
            gates[number - 1].set()
        return number

    @app.workflow
    async def race() -> list[int]:
        order = [n async for n in everstep.as_completed([wait(0), wait(1), wait(2)])]
        orders.append(order)
        await everstep.sleep(3600)
        return order

    await worker()
    handle = await client.start(race)
    gates[2].set()
    await _until_waiting(client, handle.id)
    sql.advance_clock(3601)
    assert await handle.result(30) == [2, 1, 0]
    assert len(orders) >= 2
    assert all(order == [2, 1, 0] for order in orders)


async def test_patched_keeps_the_old_way_for_what_had_passed(
    app: App, worker: StartWorker, client: Client
) -> None:
    new_code = [False]

    @app.step
    async def old() -> str:
        return "old"

    @app.step
    async def new() -> str:
        return "new"

    @app.workflow
    async def fees() -> str:
        if new_code[0] and everstep.patched("fees-2"):
            result = await new()
        else:
            result = await old()
        await everstep.recv("go")
        return result

    await worker()
    before = await client.start(fees, id="before")
    await _until_waiting(client, "before")
    new_code[0] = True
    after = await client.start(fees, id="after")
    await _until_waiting(client, "after")
    for handle in (before, after):
        await client.send(handle.id, None, "go")
    assert await before.result(30) == "old"
    assert await after.result(30) == "new"


async def test_a_deadline_ends_a_workflow_wherever_it_is(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def forever() -> None:
        await everstep.recv("never")

    @app.workflow
    async def parent() -> None:
        await forever()

    unclaimed = await client.start(forever, queue="nobody", timeout=60)
    await worker()
    waiting = await client.start(parent, id="p", timeout=timedelta(seconds=60))
    await _until_waiting(client, "p/1")
    sql.advance_clock(61)
    for handle in (unclaimed, waiting, client.handle_named("p/1")):
        with pytest.raises(WorkflowTimeoutError, match="deadline"):
            await handle.result(30)


async def test_one_open_workflow_per_deduplication_key(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def listen() -> str:
        return str(await everstep.recv())

    await worker()
    first = await client.start(listen, dedup="k")
    with pytest.raises(DuplicateWorkflowError) as caught:
        await client.start(listen, dedup="k")
    assert caught.value.holder == first.id
    same = await client.start(listen, dedup="k", on_duplicate="return")
    assert same.id == first.id
    await client.send(first.id, "bye")
    assert await first.result(30) == "bye"
    second = await client.start(listen, dedup="k")
    assert second.id != first.id
    await second.cancel()


async def test_policies_for_an_id_that_exists(
    app: App, worker: StartWorker, client: Client
) -> None:
    fail = [True]

    @app.step
    async def flaky() -> str:
        if fail[0]:
            raise ValueError("not yet")
        return "fine"

    @app.workflow
    async def work() -> str:
        return await flaky()

    await worker()
    handle = await client.start(work, id="w")
    with pytest.raises(WorkflowError, match="not yet"):
        await handle.result(30)
    with pytest.raises(WorkflowExistsError):
        await client.start(work, id="w", on_existing="reject")
    fail[0] = False
    again = await client.start(work, id="w", on_existing="restart")
    assert await again.result(30) == "fine"
    assert not again.created


async def test_run_at_waits_for_its_instant(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow
    async def tick() -> None:
        return None

    await worker()
    at = datetime.now(UTC) + timedelta(seconds=1)
    handle = await client.start(tick, run_at=at)
    await handle.result(30)
    finished = sql.one("SELECT finished_at FROM everstep.workflow WHERE id = %s", [handle.id])
    assert finished >= at


async def _until_waiting(client: Client, workflow_id: str) -> None:
    async def waiting() -> bool:
        info = await client.get(workflow_id)
        return info is not None and info.status == "waiting"

    await eventually(waiting)
