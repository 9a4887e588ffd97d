"""Starting workflows, and what a client may ask about them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

import everstep
from everstep import (
    Client,
    Filter,
    PayloadError,
    Status,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowError,
    WorkflowTimeoutError,
)


@dataclass
class Order:
    number: int
    lines: list[str]


async def test_a_started_workflow_gives_its_result(app, client, worker):
    @app.step
    async def double(x: int) -> int:
        return 2 * x

    @app.workflow
    async def twice(x: int) -> int:
        return await double(x)

    await worker()
    handle = await client.start(twice, 21)
    assert await handle.result(timeout=30) == 42


async def test_inputs_and_results_are_rebuilt_from_their_annotations(app, client, worker):
    seen = []

    @app.workflow
    async def echo(order: Order, times: int = 1) -> Order:
        seen.append((order, times))
        return order

    await worker()
    handle = await client.start(echo, Order(7, ["a"]))
    assert await handle.result(timeout=30) == Order(7, ["a"])
    assert seen == [(Order(7, ["a"]), 1)]


async def test_the_same_id_with_the_same_input_is_the_same_workflow(app, client, worker, sql):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    await worker()
    first = await client.start(echo, 1, id="one")
    second = await client.start(echo, 1, id="one")
    assert (first.created, second.created) == (True, False)
    assert await second.result(timeout=30) == 1
    third = await client.start(echo, 1, id="one")
    assert not third.created
    assert await third.result(timeout=30) == 1
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


async def test_the_same_id_with_another_input_or_name_is_refused(app, client):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    @app.workflow
    async def other(x: int) -> int:
        return x

    await client.start(echo, 1, id="one")
    with pytest.raises(WorkflowConflictError, match=r"input.*\{\"x\":1\}, not \{\"x\":2\}"):
        await client.start(echo, 2, id="one")
    with pytest.raises(WorkflowConflictError, match=r"is of workflow '.*echo', not '.*other'"):
        await client.start(other, 1, id="one")


async def test_inputs_that_differ_only_in_the_order_of_keys_are_the_same(app, client):
    @app.workflow
    async def echo(x: dict[str, int], y: set[str]) -> None: ...

    letters = [chr(65 + n) for n in range(26)]
    await client.start(echo, {"a": 1, "b": 2}, set(letters), id="one")
    again = await client.start(echo, {"b": 2, "a": 1}, {*letters[::-1]}, id="one")
    assert not again.created


async def test_an_id_started_by_many_at_once_is_one_workflow(database, app, sql):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    ids = [f"w{n}" for n in range(50)]

    async def start_all() -> int:
        async with Client.connect(database) as client:
            handles = await asyncio.gather(*[client.start(echo, 1, id=id_) for id_ in ids])
            return sum(handle.created for handle in handles)

    created = await asyncio.gather(*[start_all() for _ in range(8)])
    assert sum(created) == 50
    assert sql.one("SELECT count(*) FROM everstep.run") == 50


async def test_many_starts_of_one_id_in_one_batch(app, client, sql):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    handles = await asyncio.gather(*[client.start(echo, 1, id="one") for _ in range(20)])
    assert sum(handle.created for handle in handles) == 1
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


async def test_a_bad_start_fails_alone(app, client, sql):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    bad = [
        client.start(echo, 1, id="nul", attributes={"a": "\0"}),
        client.start(echo, 1, id="nan", attributes={"a": float("nan")}),
        client.start(echo, 1, id="object", attributes={"a": object()}),
        client.start(echo, 1, id="surrogate", attributes={"a": "\ud800"}),
        client.start(echo, 1, id="queue", queue="a\0b"),
        client.start(echo, 1, id="\ud800"),
    ]
    good = [client.start(echo, n, id=f"good{n}") for n in range(20)]
    outcomes = await asyncio.gather(*bad, *good, return_exceptions=True)
    assert [type(o) for o in outcomes[:6] if not isinstance(o, UsageError)] == []
    assert all(outcome.created for outcome in outcomes[6:])
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 20


async def test_wrong_options_are_named(app, client):
    @app.workflow
    async def echo(x: int) -> int:
        return x

    soon = datetime.now(UTC)
    for options, word in [
        ({"id": ""}, "id"),
        ({"id": "x" * 513}, "512"),
        ({"id": 7}, "a text, not 7"),
        ({"priority": 4}, "priority"),
        ({"priority": "high"}, "not 'high'"),
        ({"delay": -1}, "delay .* not -1 seconds"),
        ({"delay": timedelta(seconds=-5)}, "delay .* not -5 seconds"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": "5s"}, "delay .*'5s'"),
        ({"timeout": "5s"}, "timeout .*'5s'"),
        ({"dealy": 1}, "dealy"),
        ({"queue": "\n"}, "queue"),
        ({"queue": ""}, "queue"),
        ({"queue": 3}, "queue .* not 3"),
        ({"run_at": "tomorrow"}, "run_at= takes a datetime"),
        ({"deadline": datetime(2030, 1, 1)}, "deadline=2030-01-01T00:00:00 has no time zone"),  # noqa: DTZ001
        ({"run_at": soon, "delay": 1}, "give one of them"),
        ({"version": ""}, "a version is a text of 1 to 200 bytes"),
        ({"version": 3}, "a version"),
        ({"version": "v 1"}, "version 'v 1': letters, digits"),
        ({"version": "-v1"}, "version '-v1': letters, digits"),
        ({"version": "v" * 65}, "at most 64"),
        ({"partition": 3}, "a partition is a text of 1 to 200 bytes, not 3"),
        ({"dedup": ""}, "a deduplication key is a text of 1 to 512 bytes"),
        ({"dedup": "k" * 513}, "k…$"),
        ({"dedup": "k", "on_duplicate": "ignore"}, "one of reject, return, not 'ignore'"),
        ({"on_duplicate": "return"}, "give dedup= too"),
        ({"id": "a", "on_existing": "maybe"}, "one of return, reject, restart, not 'maybe'"),
        ({"on_existing": "reject"}, "give id= too"),
        ({"id": "a", "on_existing": "restart", "connection": object()}, "no part of a transaction"),
    ]:
        with pytest.raises(UsageError, match=word):
            await client.start(echo, 1, **options)
    with pytest.raises(UsageError, match="workflow"):
        await client.start(len, 1)
    with pytest.raises(UsageError, match="takes at most 1 arg"):
        await client.start(echo, 1, 2)


async def test_many_starts_take_a_tuple_each(app, client, sql):
    @app.workflow
    async def echo(x: str) -> None: ...

    for one in ("abc", {"x": "a"}, 7):
        with pytest.raises(UsageError, match="takes a tuple of arguments for each workflow, not"):
            await client.start_many(echo, [one])
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 0


async def test_a_workflow_whose_deadline_has_passed_does_not_begin(app, worker):
    began = []

    @app.workflow
    async def late() -> None:
        began.append(everstep.workflow_id())

    client = (await worker()).client
    # The worker claims what it starts in the same statement, so no sweep comes before it.
    handle = await client.start(late, deadline=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(WorkflowTimeoutError, match="before its deadline"):
        await handle.result(timeout=30)
    assert began == []


async def test_a_child_of_a_workflow_that_began_at_its_start_inherits_the_deadline(
    app, worker, sql
):
    begun = asyncio.Event()

    @app.workflow
    async def child() -> None:
        begun.set()
        await everstep.recv("never")

    @app.workflow
    async def parent() -> None:
        await child()

    client = (await worker()).client
    handle = await client.start(parent, timeout=timedelta(hours=1))
    await asyncio.wait_for(begun.wait(), 30)
    one, other = sql("SELECT id, deadline FROM everstep.run ORDER BY id")
    assert one[1] is not None
    assert one[1] == other[1]
    await handle.cancel()


async def test_filters_name_wrong_statuses():
    for wrong in ("failed", ["failed", "nope"]):
        with pytest.raises(UsageError, match=r"statuses= is a list of queued, .*; not"):
            Filter(statuses=wrong)


async def test_arguments_that_cannot_be_recorded_are_refused(app, client, sql):
    @app.workflow
    async def echo(x) -> None: ...

    for value in (object(), float("nan"), (1, 2), {1: 2}, "\ud800", b"bytes"):
        with pytest.raises(PayloadError):
            await client.start(echo, value)
    with pytest.raises(PayloadError, match="limit"):
        await client.start(echo, "x" * 2_097_152)
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 0


async def test_a_failed_workflow_tells_type_message_and_cause(app, client, worker):
    @app.workflow
    async def fails() -> None:
        raise ValueError("outer") from KeyError("inner")

    await worker()
    handle = await client.start(fails)
    with pytest.raises(WorkflowError, match="ValueError: outer") as caught:
        await handle.result(timeout=30)
    assert caught.value.failure.type == "ValueError"
    assert caught.value.failure.cause.type == "KeyError"
    info = await handle.info()
    assert (info.status, info.error_type, info.error_message) == (
        Status.FAILED,
        "ValueError",
        "outer",
    )


async def test_waiting_for_a_result_can_end_earlier(app, client):
    @app.workflow
    async def nobody_runs_it() -> None: ...

    handle = await client.start(nobody_runs_it)
    with pytest.raises(TimeoutError, match=r"has not finished within 0\.05 s"):
        await handle.result(timeout=timedelta(milliseconds=50))
    with pytest.raises(UnknownWorkflowError, match="no workflow with id 'x'"):
        await client.handle(nobody_runs_it, "x").result(timeout=30)


async def test_a_queued_workflow_is_cancelled_at_once(app, client, sql):
    @app.workflow
    async def nobody_runs_it() -> None: ...

    handle = await client.start(nobody_runs_it)
    assert await handle.cancel()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=30)
    assert not await handle.cancel()
    assert (await handle.info()).status is Status.CANCELLED
    assert sql.one("SELECT count(*) FROM everstep.run") == 0
    with pytest.raises(UnknownWorkflowError):
        await client.cancel("nothing")


async def test_a_running_workflow_is_cancelled_at_its_next_await(app, client, worker):
    began, undone = asyncio.Event(), asyncio.Event()

    @app.workflow
    async def waits() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    await worker()
    handle = await client.start(waits)
    await began.wait()
    assert await handle.cancel()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=30)
    assert undone.is_set()
    assert (await handle.info()).status is Status.CANCELLED


async def test_a_cancelled_workflow_that_is_claimed_again_runs_no_step(app, client, worker, sql):
    steps = []
    began = asyncio.Event()

    @app.step
    async def step() -> None:
        steps.append(1)

    @app.workflow
    async def waits() -> None:
        began.set()
        await step()

    handle = await client.start(waits)
    # As a worker would leave it that was told to cancel, and left before it came to it.
    sql("UPDATE everstep.run SET cancel = true, epoch = 2, version = 'unversioned'")
    await worker()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=30)
    assert steps == []


async def test_lists_and_infos(app, client, worker):
    @app.step
    async def step(x: int) -> int:
        return x

    @app.workflow
    async def echo(x: int) -> int:
        return await step(x)

    @app.workflow(queue="slow")
    async def other() -> None: ...

    await worker(queues=["default"])
    handles = [
        await client.start(echo, n, id=f"e{n}", attributes={"tenant": n % 2}) for n in range(4)
    ]
    await client.start(other)
    for handle in handles:
        await handle.result(timeout=30)
    assert [w.id for w in await client.list(Filter(name=echo.name))] == ["e3", "e2", "e1", "e0"]
    assert len(await client.list(limit=2)) == 2
    assert {w.id for w in await client.list(Filter(attributes={"tenant": 1}))} == {"e1", "e3"}
    assert [w.name for w in await client.list(Filter(statuses=[Status.QUEUED]))] == [other.name]
    assert [w.id for w in await client.list(Filter(id_prefix="e1"))] == ["e1"]
    info = await handles[3].info()
    assert (info.input, info.output, info.queue) == ({"x": 3}, 3, "default")
    (recorded,) = await handles[3].steps()
    assert (recorded.name, recorded.seq, recorded.output, recorded.attempts) == (step.name, 1, 3, 1)
