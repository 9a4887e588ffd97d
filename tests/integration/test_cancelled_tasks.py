"""Tasks that a workflow cancels: a replay cancels them where the first run did, however quick it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.hold import Hold
from support.twice import ended, twice

import everstep
from everstep import StepError, WorkflowError

HOUR = 3600
CANCELLED_TWICE = """INSERT INTO everstep.checkpoint
    SELECT workflow_id, '1.0', n, 10, 'cancel', worker_id, epoch, 1, codec, '{"at":1,"asleep":true}', NULL, 0, recorded_at
      FROM everstep.checkpoint, generate_series(1, 2) AS n WHERE branch = '1' AND seq = 1
        ON CONFLICT DO NOTHING"""
"""Of the first task, in its first sleep."""


@pytest.fixture
def step(app) -> Any:
    @app.step
    async def echo(text: str) -> str:
        return text

    return echo


@pytest.mark.no_replay("how far the task comes in time is another matter there")
async def test_a_task_that_had_finished_keeps_what_it_returned(app, client, worker, step):
    async def body(said: list[str], _: Hold) -> None:
        async def both() -> str:
            return await step("a") + await step("b")

        task = asyncio.create_task(both())
        await everstep.sleep(0.3)
        said.append(f"{task.cancel()}")
        said.append(await ended(task))

    async def unsure(said: list[str], hold: Hold) -> None:
        await body(said, hold)
        said.pop(-2)  # whether there was anything to cancel is not the same at a replay

    assert await twice(app, client, worker, unsure) == ["returned ab"]


async def test_a_task_that_had_not_begun_does_not_begin(app, client, worker, step):
    async def body(said: list[str], _: Hold) -> None:
        async def work() -> None:
            said.append("begun")
            await step("a")

        task = asyncio.create_task(work())
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cancelled"]


WAITS: dict[str, Callable[[], Any]] = {
    "recv": lambda: everstep.recv("never"),
    "sleep": lambda: everstep.sleep(HOUR),
    "event": lambda: asyncio.Event().wait(),
    "asyncio's sleep": lambda: asyncio.sleep(HOUR),
    "task": lambda: asyncio.create_task(everstep.recv("never")),
    "task that sleeps": lambda: asyncio.create_task(everstep.sleep(HOUR)),
}


@pytest.mark.parametrize("kind", ["step", *WAITS])
async def test_cleanup_in_a_cancelled_task_is_replayed(app, client, worker, sql, step, kind):
    hold = Hold(app)
    runs: list[list[str]] = []

    @app.step
    async def lasting() -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> list[str]:
        said: list[str] = []
        runs.append(said)

        async def work() -> str:
            said.append(await step("working"))
            try:
                await WAITS.get(kind, lasting)()
            except asyncio.CancelledError:
                said.append(await step("cleaning up"))
                said.append(await hold.step())
                raise
            return "nobody cancelled it"

        task = asyncio.create_task(work())
        await everstep.sleep(0.4)
        task.cancel()
        said.append(await ended(task))
        await everstep.sleep(1)
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    assert runs[-1] == ["working", "cleaning up"]
    await first.stop()
    sql.advance_clock(2 * HOUR)
    hold.free.set()
    await worker()
    assert await handle.result(30) == ["working", "cleaning up", "held", "cancelled"]


@pytest.mark.no_replay("how far the task comes in time is another matter there")
async def test_cleanup_that_cannot_be_replayed_is_told(app, client, worker, sql, step):
    """What a shield kept from the cancellation is there at the replay, and nothing says that it was awaited in vain."""
    hold = Hold(app)

    @app.workflow
    async def flow() -> str:
        async def work() -> str:
            try:
                await asyncio.shield(everstep.sleep(0.8))
            except asyncio.CancelledError:
                await step("cleaning up")
                await hold.step()
            return "over"

        task = asyncio.create_task(work())
        await everstep.sleep(0.4)
        task.cancel()
        await everstep.sleep(1)
        return await task

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    await first.stop()
    sql.advance_clock(HOUR)
    await worker()
    with pytest.raises(
        WorkflowError, match=r"the log says step .*echo, the code calls the end of a task that was"
    ):
        await handle.result(30)


async def test_a_group_whose_member_failed_replays_who_had_come_how_far(app, client, worker, step):
    @app.step
    async def fail() -> None:
        raise ValueError("bad")

    async def body(said: list[str], _: Hold) -> None:
        async def bad() -> None:
            await all_wait.wait()
            await fail()

        async def done() -> None:
            said.append(await step("done"))

        async def waits(name: str) -> None:
            waiting.append(await step(name))
            if len(waiting) == 4:
                all_wait.set()
            try:
                await everstep.recv(name)
            finally:
                said.append(await step(f"{name} cleaned up"))

        waiting: list[str] = []
        all_wait = asyncio.Event()

        async def nested() -> None:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(waits("c"))
                inner.create_task(waits("d"))

        try:
            async with asyncio.TaskGroup() as group:
                for member in (bad(), waits("a"), done(), waits("b"), nested()):
                    group.create_task(member)
                await everstep.recv("the body")
        except* StepError as failed:
            said.append(f"{len(failed.exceptions)} failed")

    said = await twice(app, client, worker, body, order=sorted)
    assert said[0] == "done"
    assert sorted(said[1:-1]) == [f"{name} cleaned up" for name in "abcd"]
    assert said[-1] == "1 failed"


async def test_a_sleep_that_was_cut_short_stays_so_after_its_time(app, client, worker, sql):
    async def body(said: list[str], _: Hold) -> None:
        sleeping = asyncio.create_task(everstep.sleep(HOUR))
        await everstep.sleep(0.3)
        sleeping.cancel()
        said.append(await ended(sleeping))

    def later() -> None:
        sql.advance_clock(2 * HOUR)

    assert await twice(app, client, worker, body, between=later) == ["cancelled"]


@pytest.mark.no_replay("a replay before the cancellation was recorded may come past it")
@pytest.mark.parametrize("ends", ["returns", "goes on", "raises"])
async def test_cancelled_in_the_turn_in_which_what_it_awaits_is_there(
    app, client, worker, step, ends
):
    ran: list[str] = []

    @app.step
    async def further(text: str) -> str:
        ran.append(text)
        return text

    async def body(said: list[str], _: Hold) -> None:
        there: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def work() -> str:
            await step("working")
            value = await there
            match ends:
                case "goes on":
                    return await further(value)
                case "raises":
                    raise ValueError(value)
                case _:
                    return value

        task = asyncio.create_task(work())
        await everstep.sleep(0.3)
        there.set_result("there")
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cancelled"]
    assert ran == []


async def test_a_task_that_takes_no_notice_goes_on_and_may_be_cancelled_again(
    app, client, worker, step
):
    async def body(said: list[str], _: Hold) -> None:
        async def stubborn() -> str:
            for n in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await everstep.recv("never")
                said.append(await step(f"cancelled {n}"))
            await everstep.recv("never")
            return "never"

        task = asyncio.create_task(stubborn())
        for n in range(3):
            await everstep.sleep(0.2)
            task.cancel()
            said.append(await step(f"asked {n}"))
            await asyncio.wait([task], timeout=0.1)
        said.append(await ended(task))

    said = await twice(app, client, worker, body)
    assert said[-1] == "cancelled"
    assert sorted(said[:-1]) == ["asked 0", "asked 1", "asked 2", "cancelled 0", "cancelled 1"]


async def test_those_left_when_enough_have_come_are_cancelled_where_they_were(
    app, client, worker, step
):
    async def body(said: list[str], hold: Hold) -> None:
        async def work(n: int) -> int:
            try:
                await everstep.sleep(0.1 if n == 1 else HOUR)
            finally:
                said.append(await step(f"{n} ends"))
                if len(said) == 4:
                    all_over.set()
            return n

        all_over = asyncio.Event()

        async with contextlib.aclosing(
            everstep.as_completed([work(0), work(1), work(2)])
        ) as results:
            async for n in results:
                said.append(f"first: {n}")
                break
        await all_over.wait()

    said = await twice(app, client, worker, body)
    assert said[:2] == ["1 ends", "first: 1"]
    assert sorted(said[2:]) == ["0 ends", "2 ends"]


async def test_what_a_step_does_to_its_own_task_is_not_recorded(app, client, worker):
    @app.step
    async def own_group() -> str:
        async def fails() -> None:
            raise ValueError("bad")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        return "went on"

    @app.workflow
    async def flow() -> str:
        return await own_group()

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == "went on"
    assert [step.name for step in await handle.steps()] == [own_group.name]


async def _in_time() -> None:
    async with everstep.timeout(0.2):
        pass


BEGINNINGS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: everstep.sleep(0.2),
    "now": everstep.now,
    "limit": _in_time,
    "limit and more": lambda: everstep.wait_for(everstep.recv("never"), 0.2),
}


@pytest.mark.no_fsck  # a limit that was never entered has no verdict
@pytest.mark.parametrize("kind", BEGINNINGS)
async def test_cancelled_while_a_wait_was_being_recorded(app, client, worker, sql, step, kind):
    async def body(said: list[str], _: Hold) -> None:
        async def work() -> None:
            try:
                await BEGINNINGS[kind]()
                said.append("went on")
            except TimeoutError:
                said.append("out of time")
            finally:
                said.append(await step("cleaned up"))

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        said.append(await ended(task))

    said = await twice(app, client, worker, body, between=lambda: sql.advance_clock(HOUR))
    assert said == ["cleaned up", "cancelled"]


async def test_a_member_that_had_not_begun_does_not_begin(app, client, worker, step):
    async def body(said: list[str], _: Hold) -> None:
        async def inner() -> None:
            said.append("begun")
            await step("a")

        async def outer() -> None:
            await asyncio.gather(inner())

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cancelled"]


async def test_what_comes_after_a_group_that_fails_at_a_replay_is_not_cancelled(
    app, client, worker, step
):
    hold = Hold(app)

    @app.workflow
    async def flow() -> str:
        async def bad() -> None:
            await step("before")
            await hold.step()
            raise ValueError("bad")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(bad())
                group.create_task(everstep.recv("never"))
        except* ValueError:
            pass
        return await step("went on")

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    await first.stop()
    hold.free.set()
    await worker()
    assert await handle.result(30) == "went on"


@pytest.mark.no_replay("every replay comes past the place in which it is cancelled")
async def test_cut_short_behind_the_place_it_was_cancelled_at(app, client, worker, step):
    holds = [Hold(app, f"hold {n}") for n in range(2)]

    @app.workflow
    async def flow() -> list[str]:
        async def work() -> str:
            await asyncio.sleep(0)
            return await step("working")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        return [await ended(task), *[await hold.step() for hold in holds]]

    handle = await client.start(flow)
    for hold in holds:
        now = await worker(grace=0.0)
        await asyncio.wait_for(hold.begun.wait(), 30)
        await now.stop()
        hold.free.set()
    await worker()
    assert (await handle.result(30))[0] == "cancelled"


async def test_cleanup_that_runs_out_of_time(app, client, worker):
    """At a replay its task waits to be cancelled where it was, though a time limit is known to have run out later."""

    @app.step
    async def lasting() -> None:
        await asyncio.Event().wait()

    async def body(said: list[str], _: Hold) -> None:
        async def work() -> str:
            try:
                async with everstep.timeout(0.8):
                    try:
                        await everstep.recv("never")
                    except asyncio.CancelledError:
                        said.append("cleaning up")
                        await lasting()
            except TimeoutError:
                said.append("out of time")
            return "over"

        task = asyncio.create_task(work())
        await everstep.sleep(0.3)
        task.cancel()
        said.append(await ended(task))

    said = await twice(app, client, worker, body)
    assert said == ["cleaning up", "out of time", "returned over"]


MORE: dict[str, Callable[[], Any]] = {
    "now": everstep.now,
    "uuid": everstep.uuid,
    "sleep": lambda: everstep.sleep(0.01),
    "sleep until": lambda: everstep.sleep_until(datetime.now(tz=UTC)),
    "limit": lambda: everstep.wait_for(everstep.recv("never"), 0.01),
    "block": _in_time,
    "message": lambda: everstep.recv("never", timeout=0.01),
}


@pytest.mark.parametrize("kind", MORE)
async def test_what_ended_as_cancelled_does_nothing_more_at_a_replay(
    app, client, worker, sql, kind
):
    """What it awaited behind a shield is there at the replay, so that it comes past the place it was cancelled at."""

    async def body(said: list[str], _: Hold) -> None:
        async def work() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.shield(everstep.recv("never", timeout=HOUR))
            with contextlib.suppress(TimeoutError):
                await MORE[kind]()

        with contextlib.suppress(TimeoutError):
            async with everstep.timeout(0.3), asyncio.TaskGroup() as group:
                task = group.create_task(work())
        said.append("cancelled" if task.cancelled() else "not cancelled")

    said = await twice(app, client, worker, body, between=lambda: sql.advance_clock(HOUR))
    assert said == ["cancelled"]
    more = "SELECT branch, seq, name FROM everstep.checkpoint WHERE branch = '1' AND seq > 2"
    assert list(sql(more)) == []


@pytest.mark.parametrize("kind", [kind for kind in MORE if kind != "limit"])
async def test_cleanup_after_what_is_there_at_a_replay(app, client, worker, sql, step, kind):
    """The replay comes past the place where the first run was cancelled, and says something else than its log."""

    async def body(said: list[str], _: Hold) -> None:
        go = asyncio.Event()

        async def work() -> str:
            try:
                await go.wait()
                with contextlib.suppress(TimeoutError):
                    await MORE[kind]()
            except asyncio.CancelledError:
                said.append("cleaning up")
                await step("cleaned up")
            return "over"

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        go.set()
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cleaning up", "returned over"]
    assert sql.one("SELECT count(*) FROM everstep.checkpoint WHERE branch = '1'") == 1


async def test_what_ended_as_cancelled_does_nothing_more_though_it_takes_no_notice(
    app, client, worker, sql, step
):
    async def body(said: list[str], _: Hold) -> None:
        go = asyncio.Event()

        async def work() -> None:
            await go.wait()
            for n in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await step(f"{n}")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        go.set()
        task.cancel()
        said.append(await ended(task))

    assert await twice(app, client, worker, body) == ["cancelled"]
    assert sql.one("SELECT count(*) FROM everstep.checkpoint WHERE branch = '1'") == 0


async def test_no_cancellation_is_lost_where_the_log_has_nothing_more(app, client, worker):
    """The worker leaves in the middle of the cleanup, and the replay comes past the place where it was cancelled."""
    hold = Hold(app)

    @app.workflow
    async def flow() -> str:
        go = asyncio.Event()

        async def work() -> str:
            try:
                await go.wait()
                return str(await everstep.recv("never"))
            except asyncio.CancelledError:
                return await hold.step()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        go.set()
        task.cancel()
        return await task

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await hold.moved(first, worker)
    assert await handle.result(30) == "held"


@pytest.mark.no_replay("it says what is recorded when the worker leaves")
async def test_what_a_call_told_is_told_by_it_at_each_replay(app, client, worker, sql, step):
    """Cancelled twice at once, by a worker that left then: the second comes out of the first call of the cleanup."""
    holds = [Hold(app, f"hold {n}") for n in range(2)]

    @app.workflow
    async def flow() -> list[str]:
        said: list[str] = []

        async def work() -> None:
            try:
                try:
                    await everstep.sleep(HOUR)
                finally:
                    said.append(f"inner: {await step('inner')}")
            finally:
                said.append(f"outer: {await step('outer')}")

        task = asyncio.create_task(work())
        await holds[0].step()
        task.cancel()
        task.cancel()
        said.append(await ended(task))
        return [*said, await holds[1].step()]

    handle = await client.start(flow)
    for hold in holds:
        now = await worker(grace=0.0)
        await asyncio.wait_for(hold.begun.wait(), 30)
        await now.stop()
        hold.free.set()
        sql(CANCELLED_TWICE)
    await worker()
    assert await handle.result(30) == ["outer: outer", "cancelled", "held"]
