"""Workflows that catch everything, also what takes them off their worker: no state is lost or wrong, and somebody says so."""

from __future__ import annotations

import pytest
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client, sync

MINUTE = 60.0


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def patient(app: App, ran: list[str]) -> None:
    """Workflows that sleep for a minute and catch everything meanwhile."""

    @app.step(name="told")
    async def told(text: str) -> str:
        ran.append(text)
        return text

    @app.step(name="told plainly")
    def told_plainly(text: str) -> str:
        ran.append(text)
        return text

    @app.workflow(name="async")
    async def patient() -> str:
        slept = "slept"
        try:
            await everstep.sleep(MINUTE)
        except:  # noqa: E722
            slept = "was caught"
            everstep.continue_as_new()
        return await told(slept)

    @app.workflow(name="plain")
    def plain() -> str:
        slept = "slept"
        try:
            sync.sleep(MINUTE)
        except BaseException:  # noqa: BLE001
            slept = "was caught"
        return told_plainly(slept)

    @app.workflow(name="quiet")
    async def quiet() -> str:
        try:
            await everstep.sleep(MINUTE)
        except:  # noqa: E722
            return "was caught"
        return "slept"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["async", "plain", "quiet"])
async def test_a_park_that_is_caught_is_a_park(
    app: App, client: Client, worker, sql: Sql, ran: list[str], caplog, name: str
):
    await worker()
    assert f"workflow {name} catches everything at {__file__}:" in caplog.text
    handle = await client.start(app.workflows[name])
    await eventually(lambda: sql.one("SELECT state FROM everstep.run") == 3)
    sql.advance_clock(2 * MINUTE)
    assert await handle.result(30) == "slept"
    assert ran == ([] if name == "quiet" else ["slept"])


async def test_a_continuation_that_is_caught_has_not_happened(app: App, client: Client, worker):
    @app.step(name="after")
    async def after(number: int) -> int:
        return number

    @app.workflow(name="w")
    async def w(number: int) -> int:
        try:
            everstep.continue_as_new(number + 1)
        except:  # noqa: E722
            return await after(number)

    await worker()
    handle = await client.start(w, 7)
    assert await handle.result(30) == 7
    assert [(step.name, step.generation) for step in await handle.steps()] == [("after", 0)]


async def test_a_worker_of_careful_workflows_says_nothing(app: App, worker, caplog):
    @app.workflow(name="w")
    async def w() -> None:
        try:
            await everstep.sleep(MINUTE)
        except Exception:  # noqa: BLE001
            return

    await worker()
    assert "catches everything" not in caplog.text
