"""The code changed under a running workflow: named, never guessed, and nothing overwritten."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import eventually

import everstep
from everstep import App, NonDeterminismError, WorkflowError


def app_calling(*names: str, sleeps: bool, log: list[str]) -> App:
    """An app whose workflow calls steps of these names one after the other, then sleeps."""
    app = App("test")

    def step_named(name: str):
        @app.step(name=name)
        async def step() -> str:
            log.append(name)
            return name

        return step

    steps = [step_named(name) for name in dict.fromkeys(names)]
    by_name = {step.name: step for step in steps}

    @app.workflow(name="flow")
    async def flow() -> list[str]:
        got = [await by_name[name]() for name in names]
        if sleeps:
            await everstep.sleep(3600)
        return got

    return app


CHANGES = {
    "swapped": (("b", "a", "c"), True, "step 1: the log says step a, the code calls step b"),
    "inserted": (("a", "x", "b", "c"), True, "step 2: the log says step b, the code calls step x"),
    "removed": (("a", "c"), True, "step 2: the log says step b, the code calls step c"),
    "renamed": (("a", "b", "d"), True, "step 3: the log says step c, the code calls step d"),
    "last removed": (("a", "b"), True, "step 3: the log says step c, the code calls sleep sleep"),
    "added": (
        ("a", "b", "c", "d"),
        True,
        "step 4: the log says sleep sleep, the code calls step d",
    ),
    "sleep removed": (
        ("a", "b", "c"),
        False,
        "step 4: the log says sleep sleep, the code calls the end of the workflow",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_code_fails_naming_step_expected_and_found(client, worker, sql, change):
    names, sleeps, message = CHANGES[change]
    log: list[str] = []
    before = app_calling("a", "b", "c", sleeps=True, log=log)
    after = app_calling(*names, sleeps=sleeps, log=log)
    first = await worker(before)
    handle = await client.start(before.workflows["flow"])
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    await first.stop()
    rows = sql("SELECT * FROM everstep.checkpoint ORDER BY seq")
    sql.advance_clock(4000)
    await worker(after)
    with pytest.raises(WorkflowError) as caught:
        await handle.result(timeout=30)
    assert caught.value.failure.type.endswith(NonDeterminismError.__name__)
    assert message in caught.value.failure.message
    assert log == ["a", "b", "c"]
    assert sql("SELECT * FROM everstep.checkpoint ORDER BY seq") == rows


async def test_code_that_catches_everything_cannot_run_on_after_a_divergence(client, worker, sql):
    effects = []

    def make(name: str) -> App:
        app = App("test")

        @app.step(name=name)
        async def charge() -> None:
            effects.append(name)

        @app.step(name="refund")
        async def refund() -> None:
            effects.append("refund")

        @app.workflow(name="flow")
        async def flow() -> str:
            try:
                await charge()
                await everstep.sleep(3600)
            except Exception:  # noqa: BLE001
                await refund()
            return "done"

        return app

    first = await worker(make("charge"))
    handle = await client.start(first.app.workflows["flow"])
    await eventually(lambda: sql("SELECT 1 FROM everstep.run WHERE state = 3"))
    await first.stop()
    sql.advance_clock(4000)
    await worker(make("bill"))
    with pytest.raises(WorkflowError, match="log says step charge, the code calls step bill"):
        await handle.result(timeout=30)
    assert effects == ["charge"]


async def test_every_step_is_answered_from_the_log_after_a_release(client, worker, sql):
    """Stopped after each step in turn; each runs once, whichever worker did it."""
    app = App("test")
    ran: list[int] = []
    moved = asyncio.Event()

    @app.step
    async def step(n: int) -> int:
        if n == len(ran):
            ran.append(n)
            moved.set()
        elif n > len(ran):
            raise AssertionError(n)
        return n

    @app.workflow
    async def flow() -> list[int]:
        got = []
        for n in range(6):
            got.append(await step(n))
            await hold.wait()
        return got

    hold = asyncio.Event()
    handle = await client.start(flow)
    for n in range(3):
        now = await worker(app)
        await eventually(
            lambda n=n: sql.one("SELECT count(*) FROM everstep.checkpoint") >= min(n, 1)
        )
        await asyncio.wait_for(moved.wait(), 30)
        await now.stop()
    hold.set()
    await worker(app)
    assert await handle.result(timeout=30) == list(range(6))
    assert ran == list(range(6))
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 6


async def test_an_escaping_cancellation_of_its_own_fails_the_workflow(app, client, worker):
    @app.workflow
    async def cancels_itself() -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    await worker()
    with pytest.raises(WorkflowError, match="CancelledError"):
        await (await client.start(cancels_itself)).result(timeout=30)
