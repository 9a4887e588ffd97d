"""Steps: recorded once, retried as their policy says, the same on the first run and on a replay."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from datetime import timedelta
from functools import partial

import pytest

import everstep
from everstep import App, Retry, StepError, UsageError, WorkflowError, sync

SOON = timedelta(milliseconds=1)


async def test_plain_steps_and_plain_workflows(app, client, worker):
    @app.step
    def double(x: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return 2 * x

    @app.workflow
    def plain(x: int) -> int:
        return double(double(x))

    @app.workflow
    async def mixed(x: int) -> int:
        return await everstep.run(double, x)

    await worker()
    assert await (await client.start(plain, 3)).result(timeout=30) == 12
    assert await (await client.start(mixed, 3)).result(timeout=30) == 6


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> tuple[int, str]:
        return x * self.factor, "x"


class SlowScale(Scale):
    async def __call__(self, x: int) -> tuple[int, str]:  # type: ignore[override]
        return x * self.factor, "y"


async def power(base: int, exponent: int) -> tuple[int, str]:
    return base**exponent, "z"


async def test_whatever_can_be_called_can_be_run_as_a_step(app, client, worker):
    @app.workflow
    async def flow() -> list[tuple[int, str]]:
        return [
            await everstep.run(Scale(2), 3),
            await everstep.run(SlowScale(3), 3),
            await everstep.run(partial(Scale(4), x=3)),
            await everstep.run(partial(partial(power, 2), exponent=5)),
        ]

    @app.workflow
    def plainly() -> list[tuple[int, str]]:
        return [sync.run(Scale(2), 3), sync.run(partial(power, 2, 3)), sync.call(Scale(5), 1)()]

    await worker()
    handle = await client.start(flow)
    assert await handle.result(30) == [(6, "x"), (9, "y"), (12, "x"), (32, "z")]
    names = [step.name for step in await handle.steps()]
    assert names == ["Scale.__call__", "SlowScale.__call__", "Scale.__call__", "power"]
    assert await (await client.start(plainly)).result(30) == [(6, "x"), (8, "z"), (5, "x")]


async def test_mixing_colours_the_wrong_way_says_what_to_do(app, client, worker):
    @app.step
    def plain_step() -> None: ...

    @app.step
    async def async_step() -> None: ...

    @app.workflow
    async def blocks() -> None:
        plain_step()

    @app.workflow
    def awaits() -> None:
        async_step()

    await worker()
    with pytest.raises(WorkflowError, match=r"everstep\.run"):
        await (await client.start(blocks)).result(timeout=30)
    with pytest.raises(WorkflowError, match="async step"):
        await (await client.start(awaits)).result(timeout=30)


async def test_a_step_is_retried_as_its_policy_says(app, client, worker):
    attempts = []

    @app.step(retry=Retry(max_attempts=4, interval=SOON, retry_on=(ValueError,)))
    async def flaky(good: int) -> int:
        attempts.append(everstep.step_context().attempt)
        if len(attempts) < good:
            raise ValueError(len(attempts))
        return len(attempts)

    @app.workflow
    async def flow(good: int) -> int:
        return await flaky(good)

    await worker()
    handle = await client.start(flow, 3)
    assert await handle.result(timeout=30) == 3
    assert attempts == [1, 2, 3]
    (step,) = await handle.steps()
    assert (step.attempts, step.status) == (3, "succeeded")


async def test_a_plain_step_is_retried_too(app, client, worker):
    attempts = []

    @app.step(retry=Retry(max_attempts=3, interval=SOON))
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError
        return len(attempts)

    @app.workflow
    def flow() -> int:
        return flaky()

    await worker()
    assert await (await client.start(flow)).result(timeout=30) == 3


async def test_an_error_that_is_not_to_be_retried_fails_at_once(app, client, worker):
    attempts = []

    @app.step(retry=Retry(max_attempts=5, interval=SOON, give_up_on=(KeyError,)))
    async def fails() -> None:
        attempts.append(1)
        raise KeyError("gone")

    @app.workflow
    async def flow() -> None:
        await fails()

    await worker()
    with pytest.raises(WorkflowError, match="failed: KeyError: 'gone'"):
        await (await client.start(flow)).result(timeout=30)
    assert attempts == [1]


async def test_an_error_of_the_retry_predicate_is_the_steps_outcome_on_every_replay(
    app, client, worker, sql
):
    attempts, seen = [], []

    def broken(error: Exception) -> bool:
        raise LookupError(f"what is {error}?")

    @app.step(retry=Retry(max_attempts=5, interval=SOON, retry_if=broken))
    async def fails() -> None:
        attempts.append(1)
        raise ValueError("new")

    @app.workflow
    async def flow() -> None:
        try:
            await fails()
        except StepError as error:
            assert error.failure.cause is not None
            seen.append((error.failure.message, error.failure.cause.message))
        await everstep.sleep(3600)  # parks, so that it is replayed

    await worker()
    handle = await client.start(flow)
    await parked(sql)
    sql.advance_clock(3600)
    await handle.result(timeout=30)
    assert attempts == [1]
    assert len(seen) >= 2
    assert set(seen) == {("what is new?", "new")}


async def test_a_step_that_takes_too_long_is_another_attempt(app, client, worker):
    attempts = []

    @app.step(
        retry=Retry(max_attempts=2, interval=SOON, retry_on=(TimeoutError,)),
        timeout=timedelta(milliseconds=30),
    )
    async def slow() -> None:
        attempts.append(1)
        await asyncio.Event().wait()

    @app.workflow
    async def flow() -> None:
        await slow()

    await worker()
    with pytest.raises(WorkflowError) as caught:
        await (await client.start(flow)).result(timeout=30)
    assert caught.value.failure.type == "TimeoutError"
    assert caught.value.failure.message.endswith("slow took longer than its timeout of 0.03 s")
    assert len(attempts) == 2


async def test_a_timeout_of_the_steps_own_keeps_its_message(app, client, worker):
    @app.step(timeout=timedelta(seconds=30))
    async def call() -> None:
        raise TimeoutError("the bank did not answer")

    @app.workflow
    async def flow() -> None:
        await call()

    await worker()
    with pytest.raises(WorkflowError, match="TimeoutError: the bank did not answer"):
        await (await client.start(flow)).result(timeout=30)


def test_options_of_steps_that_make_no_sense_are_refused(app):
    async def call() -> None: ...

    for options, word in [
        ({"timeout": 5}, "timeout= is a timedelta longer than nothing, not 5"),
        ({"timeout": timedelta(0)}, "longer than nothing"),
        ({"retry": 3}, "retry= takes Retry"),
    ]:
        with pytest.raises(UsageError, match=word):
            app.step(name="call", **options)(call)
    step = app.step(call)
    with pytest.raises(UsageError, match="longer than nothing"):
        step.options(timeout=timedelta(0))
    with pytest.raises(UsageError, match="retry= takes Retry"):
        app.transaction(name="other", retry=True)(call)


async def test_a_failed_step_raises_the_same_on_the_first_run_and_on_replay(
    database, client, worker, sql
):
    caught: list[StepError] = []
    tries = []
    app = App("test")

    @app.step(retry=Retry(max_attempts=2, interval=SOON))
    async def fails() -> None:
        tries.append(1)
        try:
            {}["inner"]
        except KeyError as error:
            raise ValueError("outer") from error

    @app.workflow
    async def flow() -> None:
        try:
            await fails()
        except StepError as error:
            caught.append(error)
        await everstep.sleep(3600)

    await worker(app)
    handle = await client.start(flow)
    await parked(sql)
    sql.advance_clock(3600)
    await handle.result(timeout=30)
    first, *_, again = caught  # parked once more where the worker's clock lags behind ours
    assert len(tries) == 2
    assert (str(first), first.failure, first.attempts) == (
        str(again),
        again.failure,
        again.attempts,
    )
    assert str(first.__cause__) == str(again.__cause__)
    assert str(first) == f"step {fails.name} failed after 2 attempts: ValueError: outer"


async def test_a_step_goes_on_with_the_value_that_a_replay_will_see(app, client, worker, sql):
    values = []

    @app.step
    async def gives_a_tuple() -> list[int]:
        return (1, 2)  # type: ignore[return-value]

    @app.workflow
    async def flow() -> None:
        values.append(await gives_a_tuple())
        await everstep.sleep(3600)

    await worker()
    handle = await client.start(flow)
    await parked(sql)
    sql.advance_clock(3600)
    await handle.result(timeout=30)
    assert len(values) > 1
    assert all(value == [1, 2] for value in values)


async def test_a_step_whose_result_cannot_be_recorded_fails_and_only_it(app, client, worker):
    @app.step
    async def bad(kind: str):
        return {
            "object": object(),
            "nan": float("nan"),
            "surrogate": "\ud800",
            "large": "x" * 2_000_000,
        }[kind]

    @app.workflow
    async def flow(kind: str) -> str:
        try:
            await bad(kind)
        except StepError as error:
            return error.failure.type
        return "recorded"

    await worker()
    for kind in ("object", "nan", "surrogate", "large"):
        handle = await client.start(flow, kind)
        assert await handle.result(timeout=30) == "everstep.errors.PayloadError"


async def test_a_step_called_outside_of_a_workflow_just_runs(app):
    @app.step
    async def double(x: int) -> int:
        return 2 * x

    assert await double(2) == 4
    with pytest.raises(UsageError, match="inside a workflow"):
        everstep.sleep(1)
    with pytest.raises(UsageError, match="start it with"):
        app.workflow(double.function)(1)


async def test_parallel_steps_keep_their_places(app, client, worker, sql, rng):
    """Whatever order they finish in, a replay gives each its own."""

    @app.step
    async def echo(x: int) -> int:
        await asyncio.sleep(rng.uniform(0, 0.02))
        return x

    async def pair(x: int) -> list[int]:
        return [await echo(10 * x), await echo(10 * x + 1)]

    @app.workflow
    async def fan() -> list[list[int]]:
        first = await asyncio.gather(*[echo(n) for n in range(10)])
        second = await asyncio.gather(*[pair(n) for n in range(5)])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pair(n)) for n in range(3)]
        await everstep.sleep(3600)
        return [first, *second, *(task.result() for task in tasks)]

    await worker()
    handle = await client.start(fan)
    await parked(sql)
    sql.advance_clock(3600)
    expected = [list(range(10)), *([10 * n, 10 * n + 1] for n in (*range(5), *range(3)))]
    assert await handle.result(timeout=30) == expected


async def test_a_branch_that_retries_keeps_the_workflow_from_parking(app, client, worker):
    """Else a failing step would be tried again only when the long sleep beside it is over."""
    attempts = []

    @app.step(retry=Retry(max_attempts=2, interval=timedelta(seconds=0.5), jitter=0))
    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return "done"

    told = asyncio.Event()

    async def work() -> None:
        await flaky()
        told.set()

    @app.workflow
    async def both() -> None:
        await asyncio.gather(everstep.sleep(3600), work())

    await worker()
    handle = await client.start(both)
    await asyncio.wait_for(told.wait(), 30)
    assert len(attempts) == 2
    assert await handle.cancel()


async def test_a_step_that_exits_has_failed_and_takes_nobody_with_it(app, client, worker):
    """In a task of a workflow SystemExit ends the event loop, and with it the worker."""
    attempts = []

    @app.step(retry=Retry(max_attempts=2, interval=SOON))
    async def exits() -> None:
        attempts.append(1)
        sys.exit("no such file")

    @app.step
    def exits_plainly() -> None:
        sys.exit(3)

    @app.workflow
    async def both() -> None:
        await asyncio.gather(exits(), everstep.sleep(0.01))

    @app.workflow
    def plain() -> None:
        exits_plainly()

    await worker()
    for workflow, code in ((both, "'no such file'"), (plain, "3")):
        with pytest.raises(WorkflowError, match=re.escape(f"sys.exit({code})")):
            await (await client.start(workflow)).result(timeout=30)
    assert len(attempts) == 2


async def parked(sql) -> None:
    from support.waiting import eventually

    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3 AND epoch > 0"))
