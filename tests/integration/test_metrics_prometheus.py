"""A real Prometheus scrapes real workers: its totals are SQL's, and every panel of the board has an answer."""

import asyncio
import json
import math
from pathlib import Path

import pytest
from support.prometheus import Prometheus, installed, lint, running_prometheus
from support.scrape import get
from support.waiting import eventually

import everstep
from everstep import App, Client, Worker

BOARD = Path(__file__).parents[2] / "charts/everstep/dashboards/everstep.json"
FINISHED = "sum(everstep_workflows_finished_total)"
STARTED = "sum(everstep_workflows_started_total)"

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs Prometheus (Debian's package prometheus)"
)


async def ask(server: Prometheus, expression: str) -> float | None:
    return await asyncio.to_thread(server.value, expression)


async def shows(server: Prometheus, expression: str, value: float) -> None:
    """Wait until Prometheus gives this value."""

    async def same() -> bool:
        return await ask(server, expression) == value

    await eventually(same, what=f"{expression} == {value}")


def count(sql, finished: str) -> int:
    return sql.one(f"SELECT count(*) FROM everstep.workflow WHERE {finished}")


async def sample(*workers: Worker) -> None:
    for worker in workers:
        assert worker.tenure is not None
        await worker.tenure.sampler.run_once()


def work(app: App):
    @app.step
    async def note(x: int) -> int:
        return x

    @app.workflow(name="add")
    async def add(x: int) -> int:
        return await note(x)

    @app.workflow(name="fail", queue="checkout")
    async def fail() -> None:
        raise ValueError("no")

    return add, fail


def held_workflow(app: App, running: asyncio.Event, go_on: asyncio.Event):
    @app.step
    async def hold() -> None:
        running.set()
        await go_on.wait()

    @app.workflow(name="held", queue="doomed")
    async def held() -> None:
        await hold()

    return held


async def test_totals_are_those_of_sql_and_survive_the_holder(app, client, worker, sql):
    add, fail = work(app)
    first, second = await worker(port=0), await worker(port=0, pod="second")
    await sample(first, second)
    assert first.port is not None
    assert second.port is not None
    with running_prometheus([first.port, second.port]) as server:
        await shows(server, STARTED, 0)
        await run_some(client, add, fail, 40)
        await sample(first, second)
        await shows(server, FINISHED, count(sql, "status <> 0"))
        await shows(server, STARTED, count(sql, "true"))
        for status, outcome in ((1, "succeeded"), (2, "failed")):
            expression = f'sum(everstep_workflows_finished_total{{outcome="{outcome}"}})'
            await shows(server, expression, count(sql, f"status = {status}"))
        await shows(server, "sum(everstep_workflow_duration_seconds_count)", 80)
        await shows(server, "sum(everstep_metrics_ticket_held)", 1)

        holder, other = (first, second) if first.metrics.snapshot.readings else (second, first)
        await holder.stop()
        await run_some(client, add, fail, 20)
        await sample(other)
        await shows(server, FINISHED, 120)
        await shows(server, "sum(everstep_metrics_ticket_held)", 1)
        # Taking over is no restart, and counts nothing anew.
        resets = await ask(server, "sum(resets(everstep_workflows_finished_total[5m]))")
        assert resets == 0
        increased = await ask(server, "sum(increase(everstep_workflows_finished_total[5m]))")
        assert increased is not None
        assert 0 < increased < 240


async def run_some(client: Client, add, fail, many: int) -> None:
    handles = [await client.start(add, n) for n in range(many)]
    failing = [await client.start(fail) for _ in range(many)]
    for handle in handles:
        await handle.result(timeout=30)
    for handle in failing:
        with pytest.raises(everstep.WorkflowError):
            await handle.result(timeout=30)


async def test_every_panel_of_the_board_has_an_answer(app, client, worker, sql):
    add, fail = work(app)
    running, go_on = asyncio.Event(), asyncio.Event()
    held = held_workflow(app, running, go_on)
    staying = await worker(port=0, queues=["default", "checkout"])
    await sample(staying)  # it holds the ticket before the other one asks
    doomed = await worker(port=0, pod="doomed", queues=["doomed"])
    assert doomed.port is not None
    assert staying.port is not None
    with running_prometheus([doomed.port, staying.port]) as server:
        await shows(server, STARTED, 0)
        # Something of everything: outcomes, a rescue, a queue that nobody serves.
        await run_some(client, add, fail, 5)
        handle = await client.start(held)
        await running.wait()
        assert sql.one("SELECT everstep.declare_dead('doomed')") == 1
        await eventually(lambda: rescued(sql) == 1)
        go_on.set()
        await handle.result(timeout=30)
        await client.start(add, 1, queue="forgotten")
        await eventually(lambda: doomed.lease_held)
        await sample(staying)
        await shows(server, "sum(everstep_workflows_rescued_total)", 1)
        await shows(server, 'sum(everstep_workflows{queue="forgotten"})', 1)
        for title, expression in panels():
            found = await asyncio.to_thread(server.query, expression)
            values = [value for _, value in found if math.isfinite(value)]
            assert values, f"{title}: {expression} gives {found}"
            assert all(value >= 0 for value in values), f"{title}: {expression} gives {found}"


def rescued(sql) -> int | None:
    tables = "(TABLE everstep.metric_delta UNION ALL TABLE everstep.metric_total)"
    return sql.one(f"SELECT sum(n) FROM {tables} AS t WHERE kind = 4")


def panels() -> list[tuple[str, str]]:
    """Titles and expressions of the board, its variables at `All`."""
    board = json.loads(BOARD.read_text())
    queries = [
        (panel["title"], target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
    assert len(queries) > 20
    for name in ("namespace", "app", "queue"):
        queries = [(title, e.replace(f'"${name}"', '".*"')) for title, e in queries]
    return [(title, e.replace("$__rate_interval", "1m")) for title, e in queries]


async def test_promtool_finds_nothing_to_say_about_the_exposition(app, client, worker):
    add, fail = work(app)
    running = await worker(port=0)
    await run_some(client, add, fail, 2)
    await sample(running)
    _, text = await get(running, "/metrics")
    assert "everstep_workflow_duration_seconds_bucket" in text
    assert lint(text) == ""
