"""everstep.testing as a user has it: a stage per test, the clock, crashes at a step, replay after every checkpoint."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import everstep
from everstep import App, Client, Rate, Retry, UsageError, WorkflowError, sync
from everstep.errors import WorkflowTimeoutError
from everstep.store.connection import Connection, connect
from everstep.store.testing import FakeClock
from everstep.testing import Stage, StuckError, SyncStage

DAY = timedelta(days=1)
OpenStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def open_stage(app: App, everstep_database: str) -> AsyncIterator[OpenStage]:
    """`await open_stage(…)`: a stage, once the test has written its workflows."""
    async with AsyncExitStack() as stack:

        async def open_(**options: str) -> Stage:
            return await stack.enter_async_context(Stage.open(app, everstep_database, **options))

        yield open_


async def test_a_sleep_of_a_month_ends_at_once(app: App, open_stage: OpenStage) -> None:
    @app.workflow
    async def month() -> str:
        await everstep.sleep(timedelta(days=30))
        return "awake"

    began = time.monotonic()
    stage = await open_stage()
    ran = await stage.run(month)
    assert ran.result == "awake"
    assert ran.step_names == ["sleep"]
    assert timedelta(days=30) <= ran.took < timedelta(days=30, minutes=1)
    assert time.monotonic() - began < 60


async def test_time_stops_at_each_timer_on_its_way(app: App, open_stage: OpenStage) -> None:
    woke: list[tuple[str, int]] = []
    start = datetime.now(UTC)

    @app.step
    async def note(who: str, at: datetime) -> None:
        woke.append((who, round((at - start) / timedelta(hours=1))))

    @app.workflow
    async def every(who: str, hours: int, times: int) -> None:
        for _ in range(times):
            await everstep.sleep(timedelta(hours=hours))
            await note(who, await everstep.now())

    stage = await open_stage()
    first = await stage.client.start(every, "five", 5, 4)
    second = await stage.client.start(every, "seven", 7, 3)
    await stage.clock.advance(hours=12)
    assert woke == [("five", 5), ("seven", 7), ("five", 10)]
    await stage.clock.run_until(second)
    await stage.clock.run_until(first)
    assert woke[3:] == [("seven", 14), ("five", 15), ("five", 20), ("seven", 21)]


async def test_deadlines_and_schedules_go_by_the_clock(app: App, open_stage: OpenStage) -> None:
    @app.workflow
    async def patient() -> None:
        await everstep.sleep(timedelta(days=9))

    stage = await open_stage()
    handle = await stage.client.start(patient, timeout=timedelta(days=2))
    with pytest.raises(WorkflowTimeoutError):
        _ = (await stage.finish(handle)).result


def scheduled() -> App:
    app = App("test")

    @app.schedule("0 7 * * *", timezone="Europe/Paris")
    async def report(tick: datetime) -> None:
        pass

    return app


async def test_each_tick_on_the_way_starts_its_workflow(everstep_database: str) -> None:
    async with Stage.open(scheduled(), everstep_database) as stage:
        await stage.clock.advance(days=10)
        ran = await stage.client.list()
        assert len(ran) == 10
        gaps = {
            (later.created_at - earlier.created_at).total_seconds() // 60
            for later, earlier in itertools.pairwise(ran)
        }
        assert gaps <= {
            1440,
            1439,
            1380,
            1379,
            1500,
            1499,
        }  # a day, also over a change of the clocks


async def test_a_jump_ends_no_lease(app: App, open_stage: OpenStage) -> None:
    @app.step
    async def long(started: str) -> str:
        running.set()
        await let_go.wait()
        return started

    @app.workflow
    async def flow() -> str:
        return await long("kept")

    running, let_go = asyncio.Event(), asyncio.Event()
    stage = await open_stage()
    tenure = stage.worker.tenure
    handle = await stage.client.start(flow)
    await running.wait()
    for _ in range(3):
        await stage.clock.jump(days=365)
    let_go.set()
    assert await handle.result(30) == "kept"
    assert stage.worker.tenure is tenure
    assert (await stage.clock.now()) > datetime.now(UTC) + 3 * 364 * DAY


async def test_a_message_is_no_timer(app: App, open_stage: OpenStage) -> None:
    @app.workflow
    async def ask() -> str:
        return str(await everstep.recv("answer"))

    stage = await open_stage()
    handle = await stage.client.start(ask)
    with pytest.raises(StuckError, match="waits for message:answer"):
        await stage.clock.run_until(handle)
    await stage.client.send(handle.id, "yes", "answer")
    assert (await stage.finish(handle)).result == "yes"


async def test_pauses_between_attempts_are_left_out(app: App, open_stage: OpenStage) -> None:
    @app.step(retry=Retry(max_attempts=4, interval=timedelta(minutes=10)))
    async def flaky() -> int:
        attempt = everstep.step_context().attempt
        if attempt < 4:
            raise TimeoutError
        return attempt

    @app.workflow
    async def flow() -> int:
        return await flaky()

    stage = await open_stage()
    ran = await stage.run(flow)
    assert ran.result == 4
    assert ran.steps[0].attempts == 4


async def test_a_failure_is_told_with_its_steps(app: App, open_stage: OpenStage) -> None:
    @app.step(name="fail")
    async def fail() -> None:
        raise ValueError("no")

    @app.workflow
    async def flow() -> None:
        await fail()

    stage = await open_stage()
    ran = await stage.run(flow)
    assert isinstance(ran.error, WorkflowError)
    assert [(step.name, step.status) for step in ran.steps] == [("fail", "failed")]
    with pytest.raises(WorkflowError):
        _ = ran.result


@pytest.mark.parametrize(("when", "times"), [("before", 1), ("after", 2), ("recorded", 1)])
@pytest.mark.parametrize("colour", ["async", "plain"])
async def test_a_worker_dies_at_a_step_and_another_takes_over(
    app: App, open_stage: OpenStage, when: str, times: int, colour: str
) -> None:
    effects: list[str] = []

    if colour == "async":

        @app.step(name="charge")
        async def charge() -> str:
            effects.append(everstep.step_context().idempotency_key)
            return "charged"

        @app.workflow
        async def flow() -> str:
            got = await charge()
            await everstep.sleep(timedelta(days=1))
            return got
    else:

        @app.step(name="charge")
        def charge_plainly() -> str:
            effects.append(everstep.step_context().idempotency_key)
            return "charged"

        @app.workflow(name="flow")
        def flow_plainly() -> str:
            got = charge_plainly()
            sync.sleep(timedelta(days=1))
            return got

    stage = await open_stage()
    first = stage.worker.tenure
    workflow = next(iter(app.workflows.values()))
    with stage.crash_at("charge", when=when) as point:  # type: ignore[arg-type]
        ran = await stage.run(workflow)
    assert ran.result == "charged"
    assert point.reached == 1
    assert len(effects) == times
    assert len(set(effects)) == 1
    assert stage.worker.tenure is not first


async def test_a_crash_in_a_transaction_leaves_nothing_of_it(
    app: App, open_stage: OpenStage
) -> None:
    calls: list[str] = []

    @app.transaction(name="book")
    async def book(tx: everstep.Connection) -> int:
        calls.append("book")
        await tx.execute("CREATE TABLE IF NOT EXISTS booking (n int)")
        await tx.execute("INSERT INTO booking VALUES (1)")
        found = await (await tx.execute("SELECT count(*) AS n FROM booking")).fetchone()
        return int(found.n)

    @app.workflow
    async def flow() -> int:
        return await book()

    stage = await open_stage()
    with stage.crash_at("book", when="after"):
        assert (await stage.run(flow)).result == 1
    assert len(calls) == 2
    with stage.crash_at("book", when="recorded"):
        assert (await stage.run(flow)).result == 2
    assert len(calls) == 3


async def test_a_crash_that_does_not_happen_is_told(app: App, open_stage: OpenStage) -> None:
    @app.workflow
    async def flow() -> None:
        pass

    stage = await open_stage()
    with (
        pytest.raises(AssertionError, match="'charge', and got there 0 times"),
        stage.crash_at("charge"),
    ):
        await stage.run(flow)


async def test_code_that_is_not_deterministic_shows_at_once(
    app: App, open_stage: OpenStage
) -> None:
    calls = iter(range(100))

    @app.step
    async def even() -> None:
        pass

    @app.step
    async def odd() -> None:
        pass

    @app.workflow
    async def fickle() -> None:
        await (odd if next(calls) % 2 else even)()
        await even()

    @app.workflow
    async def steady() -> list[int]:
        return [await child(n) for n in range(3)]

    @app.workflow
    async def child(n: int) -> int:
        await even()
        return n

    stage = await open_stage(replay="always")
    ran = await stage.run(fickle)
    assert ran.error is not None
    assert "NonDeterminism" in str(ran.error)
    assert (await stage.run(steady)).result == [0, 1, 2]


async def test_it_leaves_after_each_checkpoint_and_loses_no_step(
    app: App, open_stage: OpenStage
) -> None:
    runs: list[str] = []
    steps: list[int] = []

    @app.step
    async def step(number: int) -> int:
        steps.append(number)
        return number

    @app.workflow
    async def serial() -> int:
        runs.append("serial")
        return sum([await step(n) for n in range(4)])

    @app.workflow
    async def side_by_side() -> int:
        # Called in one branch: the first may end in a later epoch than the second.
        return sum(await asyncio.gather(*(step(n) for n in range(5))))

    stage = await open_stage(replay="always")
    assert (await stage.run(serial)).result == 6
    assert len(runs) == 5
    assert steps == [0, 1, 2, 3]
    assert (await stage.run(side_by_side)).result == 10
    assert sorted(steps) == sorted([*range(4), *range(5)])


def test_a_plain_test_has_the_same_without_await(app: App, everstep_database: str) -> None:
    @app.workflow
    def nap(days: int) -> str:
        sync.sleep(timedelta(days=days))
        return "awake"

    with SyncStage(app, everstep_database) as stage:
        assert stage.run(nap, 30).result == "awake"
        handle = stage.client.start(nap, 7)
        before = stage.clock.now()
        assert stage.clock.advance(days=7) >= before + 7 * DAY
        assert handle.result(30) == "awake"
        assert stage.finish(handle).step_names == ["sleep"]


async def test_clients_of_others_are_served_too(
    app: App, open_stage: OpenStage, everstep_database: str
) -> None:
    @app.workflow
    async def hello() -> str:
        return "hello"

    await open_stage()
    async with Client.connect(everstep_database) as client:
        assert await (await client.start(hello)).result(30) == "hello"


async def test_what_does_not_end_is_told(
    app: App, open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstep.testing.clock.PATIENCE_SECONDS", 0.2)
    begun, held = asyncio.Event(), asyncio.Event()

    @app.step
    async def hold() -> None:
        begun.set()
        await held.wait()

    @app.workflow
    async def flow() -> None:
        await hold()

    stage = await open_stage()
    handle = await stage.client.start(flow, id="held-up")
    await asyncio.wait_for(begun.wait(), 30)  # queued for longer than that is told, too
    with pytest.raises(StuckError, match="held-up is running"):
        await stage.clock.advance(days=1)
    held.set()
    await handle.result(30)


@pytest.mark.slow
async def test_ten_thousand_sleepers_wake_at_their_instant_and_none_early(
    app: App, open_stage: OpenStage, rng: random.Random
) -> None:
    """T29: fifty instants of a month, stopped at one by one."""

    @app.workflow
    async def sleeper(until: datetime) -> float:
        await everstep.sleep_until(until)
        return (await everstep.now() - until).total_seconds()

    stage = await open_stage()
    now = await stage.clock.now()
    instants = [now + timedelta(hours=hours) for hours in rng.sample(range(1, 720), 50)]
    handles = await stage.client.start_many(
        sleeper, [(rng.choice(instants),) for _ in range(10_000)]
    )
    await stage.clock.advance(days=31)
    late = await asyncio.gather(*(handle.result(60) for handle in handles))
    assert min(late) >= 0
    # Time goes on by itself while they are woken, but to the next instant only when all have been.
    assert max(late) < 3600


async def test_what_is_due_this_very_moment_does_not_hide_what_comes_next(
    app: App, everstep_database: str
) -> None:
    async with await connect(everstep_database, "test") as connection:
        await connection.execute(
            "INSERT INTO everstep.run (id, name, queue, state, ready_at, wake_at) "
            "SELECT 'w' || n, 'w', 'default', 3, now(), now() + make_interval(hours => n) "
            "FROM generate_series(0, 2) AS n"
        )
        found = await FakeClock("everstep").next_timer(connection)
        assert found is not None
        assert found <= datetime.now(UTC)
        await connection.execute("DELETE FROM everstep.run")


async def test_a_rate_is_a_timer_too(app: App, open_stage: OpenStage) -> None:
    app.queue("slow", rate=Rate(1, timedelta(hours=1)))

    @app.workflow(queue="slow")
    async def hello() -> None:
        pass

    stage = await open_stage()
    handles = [await stage.client.start(hello) for _ in range(3)]
    await stage.clock.advance(minutes=150)
    began = sorted([(await handle.info()).finished_at for handle in handles])
    assert [round((at - began[0]) / timedelta(hours=1)) for at in began] == [0, 1, 2]


async def test_a_schedule_that_ticks_for_ever_hides_no_workflow_that_is_stuck(
    everstep_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient:
        """What goes on by itself is waited for however long a slow machine takes: it is not what this is about."""

        async def nap(self, _: object) -> None:
            await asyncio.sleep(0.001)

    app = scheduled()

    @app.workflow
    async def ask() -> str:
        return str(await everstep.recv("answer"))

    @app.workflow
    async def nap() -> None:
        await everstep.sleep(timedelta(days=20))

    async with Stage.open(app, everstep_database) as stage:
        assert (await stage.run(nap)).took > 20 * DAY
        monkeypatch.setattr("everstep.testing.clock.PATIENCE_SECONDS", 0.5)
        monkeypatch.setattr("everstep.testing.clock._Patience", Patient)
        with pytest.raises(StuckError, match="waits for message:answer, and only others"):
            await stage.run(ask)


async def test_schedules_may_be_kept_still(everstep_database: str) -> None:
    async with Stage.open(scheduled(), everstep_database, schedules=False) as stage:
        await stage.clock.advance(days=10)
        assert not await stage.client.list()


async def test_a_crash_point_is_a_step_or_its_name_and_a_moment_that_there_is(
    app: App, open_stage: OpenStage
) -> None:
    @app.step
    async def charge() -> None:
        pass

    @app.workflow
    async def flow() -> None:
        await charge()

    stage = await open_stage()
    with stage.crash_at(charge, when="before") as point:
        await stage.run(flow)
    assert point.reached == 1
    for wrong in ({"when": "later"}, {"times": 0}):
        with pytest.raises(UsageError, match="'before', 'after' or 'recorded'"):
            stage.crash_at(charge, **wrong).__enter__()  # type: ignore[arg-type]


async def test_the_clock_is_moved_by_times_only(app: App, open_stage: OpenStage) -> None:
    stage = await open_stage()
    for wrong in (
        lambda: stage.clock.advance(30),  # type: ignore[arg-type]
        lambda: stage.clock.advance(day=1),
        stage.clock.advance,
        lambda: stage.clock.advance(DAY, days=1),
        lambda: stage.clock.jump(days=-1),
    ):
        with pytest.raises(UsageError, match="the clock"):
            await wrong()


async def test_what_is_woken_between_two_questions_is_not_stuck(
    app: App, open_stage: OpenStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.workflow
    async def ask() -> str:
        return str(await everstep.recv("answer"))

    stage = await open_stage()
    handle = await stage.client.start(ask)
    messages = stage.clock._messages
    look, sent = messages.wake_forgotten, []

    async def send_first(connection: Connection) -> int:
        if not sent:
            sent.append(await stage.client.send(handle.id, "yes", "answer"))
        return await look(connection)

    monkeypatch.setattr(messages, "wake_forgotten", send_first)
    assert (await stage.finish(handle)).result == "yes"
    assert sent == [True]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"replay": "sometimes"}, "replay= is 'never' or 'always', not 'sometimes'"),
        ({"concurency": 1}, "a stage has no option concurency; it has replay, .*concurrency"),
    ],
)
async def test_an_option_that_there_is_not_is_refused(
    open_stage: OpenStage, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        await open_stage(**wrong)
