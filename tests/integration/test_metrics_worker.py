"""A worker's port: probes, what SQL says as metrics, and both when something is broken."""

import asyncio
import threading
from datetime import timedelta

import pytest
from support.database import TEMPLATE, make_template
from support.scrape import get, get_now, sample_now, scrape
from support.server import running_server
from support.waiting import eventually, eventually_now

import everstep
from everstep import App, Client, Settings, UsageError, Worker
from everstep.engine.heartbeat import boottime
from everstep.metrics.catalogue import CATALOGUE, Query, Scope
from everstep.metrics.sampler import SHOWN_INTERVALS


def work(app: App) -> tuple:
    @app.workflow(name="add")
    async def add(x: int) -> int:
        return x + 1

    @app.workflow(name="fail", queue="checkout")
    async def fail(x: int) -> int:
        raise ValueError("no")

    @app.workflow(name="wait")
    async def wait() -> None:
        await everstep.sleep(timedelta(days=1))

    return add, fail, wait


async def test_metrics_say_what_sql_says(app, client, worker, sql):
    add, fail, wait = work(app)
    running = await worker(port=0)
    for n in range(7):
        assert await (await client.start(add, n)).result(timeout=30) == n + 1
    for n in range(3):
        with pytest.raises(everstep.WorkflowError):
            await (await client.start(fail, n)).result(timeout=30)
    for n in range(2):
        await client.start(wait, id=f"wait-{n}")
    await client.start(add, 1, delay=timedelta(hours=1), id="later")
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run WHERE state = 3") == 3)
    await client.cancel("later")
    found = await sample_now(running)

    finished = sql(
        "SELECT status AS outcome, queue, name, count(*) AS n, sum(extract(epoch FROM duration)) AS s "
        "FROM everstep.workflows WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3"
    )
    assert len(finished) == 3
    shown = found["everstep_workflows_finished_total"]
    assert {labels: n for labels, n in shown.items() if n} == {
        (r.outcome, r.queue, r.name): r.n for r in finished
    }
    for r in finished:
        labels = (r.outcome, r.name)
        assert found["everstep_workflow_duration_seconds_count"][labels] == r.n
        seconds = found["everstep_workflow_duration_seconds_sum"][labels]
        assert seconds == pytest.approx(float(r.s), abs=1e-4)
    started = sql("SELECT queue, name, count(*) AS n FROM everstep.workflow GROUP BY 1, 2")
    assert found["everstep_workflows_started_total"] == {(r.queue, r.name): r.n for r in started}
    opened = sql(
        "SELECT queue, status, count(*) AS n FROM everstep.workflows "
        "WHERE finished_at IS NULL GROUP BY 1, 2"
    )
    assert {k: n for k, n in found["everstep_workflows"].items() if n} == {
        (r.queue, r.status): r.n for r in opened
    }
    assert found["everstep_workflows"]["checkout", "queued"] == 0
    assert found["everstep_workflows_by_version"] == {("unversioned",): 2}
    assert found["everstep_workers"] == {("live", "unversioned"): 1}
    assert found["everstep_queue_wait_seconds_count"] == {("checkout",): 3, ("default",): 9}
    assert found["everstep_metrics_ticket_held"] == {(): 1}
    assert found["everstep_commit_rows_count"][()] >= 1


async def test_the_oldest_ready_workflow_is_seen_though_nobody_serves_its_queue(
    app, client, worker, sql
):
    add, _, _ = work(app)
    running = await worker(port=0)
    for n, priority in enumerate((2, 0, 1)):
        await client.start(add, n, id=f"old-{n}", queue="forgotten", priority=priority)
    sql("UPDATE everstep.run SET ready_at = '2001-09-09 01:46:40+00' WHERE id = 'old-0'")
    sql("UPDATE everstep.queue SET paused = true WHERE name = 'default'")
    found = await sample_now(running)
    assert found["everstep_queue_oldest_ready_timestamp_seconds"] == {("forgotten",): 1_000_000_000}
    assert found["everstep_workflows"]["forgotten", "queued"] == 3
    assert found["everstep_queue_paused"] == {("checkout",): 0, ("default",): 1}


async def test_one_pod_shows_the_global_metrics_and_another_takes_over_when_it_leaves(
    app, client, worker, database
):
    add, _, _ = work(app)
    global_names = {m.name for m in CATALOGUE if m.scope is Scope.GLOBAL and not m.bounds}
    leaving = Worker(app, Settings(url=database, port=0))
    async with leaving:
        assert await (await client.start(add, 1)).result(timeout=30) == 2
        first = await sample_now(leaving)
        staying = await worker(port=0)
        second = await sample_now(staying)
        assert first["everstep_metrics_ticket_held"] == {(): 1}
        assert second["everstep_metrics_ticket_held"] == {(): 0}
        assert not global_names & set(second)
    assert leaving.tenure is not None
    await leaving.tenure.sampler.run_once()  # a round that was still to come takes nothing back
    third = await sample_now(staying)
    assert third["everstep_metrics_ticket_held"] == {(): 1}
    assert global_names - {"everstep_queue_oldest_ready_timestamp_seconds"} <= set(third)
    succeeded = ("succeeded", "default", "add")
    assert third["everstep_workflows_finished_total"][succeeded] == 1
    assert third["everstep_workers"][("dead", "unversioned")] == 1


async def test_a_statement_that_fails_keeps_its_last_value_for_a_while_and_the_others_go_on(
    app, worker, sql
):
    work(app)
    running = await worker(port=0)
    assert running.tenure is not None
    before = await sample_now(running)
    # From a thread: the lock may have to wait for a statement that this loop has under way.
    await asyncio.to_thread(sql, "ALTER TABLE everstep.version RENAME COLUMN state TO broken")
    try:
        found = await sample_now(running)
    finally:
        await asyncio.to_thread(sql, "ALTER TABLE everstep.version RENAME COLUMN broken TO state")
    assert found["everstep_workflows"] == before["everstep_workflows"]
    errors = found["everstep_metrics_query_errors_total"]
    assert errors[Query.OPEN,] >= 1
    assert errors[Query.WORKERS,] == 0
    success = "everstep_metrics_query_last_success_timestamp_seconds"
    assert found[success][Query.OPEN,] < found[success][Query.WORKERS,]
    # What failed is older, and so disappears before the rest: four intervals after it was read.
    readings = running.metrics.snapshot.readings
    kept = SHOWN_INTERVALS * running.tenure.sampler.interval
    assert readings[Query.OPEN].until < readings[Query.WORKERS].until <= boottime() + kept


async def test_probes_follow_the_worker_from_start_to_drain(app, client, worker, database):
    entered, let_go = asyncio.Event(), asyncio.Event()

    @app.step
    async def hold() -> None:
        entered.set()
        await let_go.wait()

    @app.workflow
    async def held() -> None:
        await hold()

    running = Worker(app, Settings(url=database, port=0, grace=30))
    assert running.port is None
    async with running:
        assert await get(running, "/livez") == (200, "ok\n")
        assert await get(running, "/readyz") == (200, "ok\n")
        assert (await get(running, "/"))[0] == 404
        await client.start(held, id="held")
        await entered.wait()
        assert (await scrape(running))["everstep_slots_used"] == {(): 1}
        stopping = asyncio.create_task(running.stop())
        await eventually(lambda: running.phase == "draining")
        status, why = await get(running, "/readyz")
        assert (status, "draining" in why) == (503, True)
        assert (await get(running, "/livez"))[0] == 200
        let_go.set()
        await stopping
    assert running.port is None


async def test_livez_fails_while_the_event_loop_is_blocked_and_metrics_still_answer(
    app, client, worker
):
    let_go = threading.Event()
    seen: list[tuple[int, str]] = []

    @app.workflow
    async def block() -> None:
        let_go.wait()  # a mistake of the user's: it blocks the loop

    running = await worker(port=0)
    assert get_now(running, "/livez")[0] == 200
    running.vitals.patience = 2.0

    def watch() -> None:
        try:
            seen.append(eventually_now(lambda: (a := get_now(running, "/livez"))[0] == 503 and a))
            seen.append(get_now(running, "/metrics"))
        finally:
            let_go.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    await (await client.start(block)).result(timeout=30)
    watcher.join()
    (status, why), (metrics_status, text) = seen
    assert status == 503
    assert "event loop has not moved" in why
    assert metrics_status == 200
    assert "everstep_build_info" in text
    await eventually(lambda: get_now(running, "/livez")[0] == 200)
    lag = (await scrape(running))["everstep_event_loop_lag_seconds_bucket"]
    assert lag["+Inf",] > lag["1.0",]


@pytest.mark.no_fsck
async def test_everything_answers_while_postgres_is_down(app, request):
    work(app)
    with running_server(request.config.getoption("--postgres")) as server:
        make_template(server)
        running = Worker(app, Settings(url=server.url(TEMPLATE), port=0, lease_ttl=1.5, grace=0.5))
        async with running:
            before = await sample_now(running)
            assert before["everstep_workers"]
            await asyncio.to_thread(server.stop, "immediate")
            found = await scrape(running)
            assert found["everstep_workers"] == before["everstep_workers"]
            assert found["everstep_build_info"]
            status, why = await eventually(lambda: refused(running, "/readyz"))
            assert status == 503
            assert "lease" in why or "starting" in why
            assert (await get(running, "/livez"))[0] == 200
            assert (await scrape(running))["everstep_lease_held"] == {(): 0}
            running.vitals.patience = 1.0
            status, why = await eventually(lambda: refused(running, "/livez"))
            assert "lease has been lost" in why
            await asyncio.to_thread(server.start)
            await eventually(lambda: ready(running), within=30)
            assert (await get(running, "/livez"))[0] == 200


async def refused(worker: Worker, path: str) -> tuple[int, str] | None:
    answer = await get(worker, path)
    return answer if answer[0] == 503 else None


async def ready(worker: Worker) -> bool:
    return (await get(worker, "/readyz"))[0] == 200


async def test_a_port_that_is_taken_is_named_with_the_remedy(app, worker, database):
    first = await worker(port=0)
    with pytest.raises(UsageError, match=rf"port {first.port}.*EVERSTEP_PORT"):
        async with Worker(app, Settings(url=database, port=first.port)):
            raise AssertionError("two workers on one port")


async def test_without_a_port_nothing_is_served(worker):
    assert (await worker()).port is None


async def test_a_database_that_is_not_there_leaves_the_port_free(app, postgres):
    settings = Settings(url=postgres.url("nowhere"), port=0)
    threads = threading.active_count()
    with pytest.raises(everstep.DatabaseUnreachableError):
        async with Worker(app, settings):
            raise AssertionError("there is no such database")
    assert "everstep-exporter" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= threads + 1


async def test_the_app_is_called_as_its_environment_says(app, worker, client):
    running = await worker(port=0, app="shop", version="v7")
    (labels,) = (await scrape(running))["everstep_build_info"]
    assert labels[0] == "shop"
    assert labels[-1] == "v7"
    assert isinstance(client, Client)
