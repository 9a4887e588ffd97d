"""Notifications are hints only: without them everything is found by looking, and no commit waits for them."""

from __future__ import annotations

import asyncio
import re
import statistics
import time

import pytest
from support.crash_app import BOOKINGS, app_of, expected
from support.database import Sql, fresh_database, make_template
from support.ledger import Ledger
from support.server import running_server
from support.standstill import Standstill

from everstep import App, Client, Settings, Worker
from everstep.engine.claimer import POLL_SECONDS

KILL_LISTENERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'everstep listen'"
)


@pytest.mark.slow
async def test_without_listeners_work_is_found_by_looking(database, worker, sql, rng):
    """Their sessions are killed again and again; each workflow begins and ends all the same, within a look."""
    app = App("test")

    @app.workflow
    async def flow(n: int) -> int:
        return n

    await worker(app)
    latencies: list[float] = []

    async def one(client: Client, n: int) -> None:
        with Standstill() as still:
            began = time.monotonic()
            assert await (await client.start(flow, n)).result(timeout=30) == n
            latencies.append(time.monotonic() - began - still.seconds)

    killed = 0
    async with Client.connect(database) as client:
        for n in range(150):
            if n % 5 == 0:
                killed += sql.one(KILL_LISTENERS)
            await one(client, n)
            await asyncio.sleep(rng.uniform(0, 0.1))
    p99 = statistics.quantiles(latencies, n=100)[-1]
    print(f"{killed} listeners killed, {len(latencies)} workflows, p99 {p99:.2f} s")
    assert killed >= 20
    # Once to be claimed, once to be seen finished.
    assert p99 <= POLL_SECONDS[1] + 0.5


@pytest.mark.slow
async def test_no_commit_of_the_engine_notifies(tmp_path):
    """As the server's own log of statements has it: hints go over a session of their own, one at a time."""
    with running_server(settings={"log_statement": "all"}) as server:
        make_template(server)
        with fresh_database(server) as name:
            sql, ledger = Sql(server.url(name)), Ledger(tmp_path / "ledger")
            sql(BOOKINGS)
            quiet = "SELECT proname FROM pg_proc WHERE pronamespace = 'everstep'::regnamespace AND prosrc ~* 'notify'"
            assert sql(quiet) == []
            sql.close()
            before = len(server.log.read_text())
            app, url = app_of(range(5), ledger), server.url(name)
            async with Worker(app, Settings(url=url)), Client.connect(url) as client:
                handles = [await client.start(app.workflows[f"reference-{n}"]) for n in range(5)]
                assert [await h.result(timeout=30) for h in handles] == [
                    expected(n) for n in range(5)
                ]
            ledger.close()
        # A statement of several lines goes on behind tabs.
        said = server.log.read_text()[before:].replace("\n\t", " ")
    statements = re.findall(r" (everstep [a-z]+) LOG:  (?:statement|execute [^:]*): (.*)", said)
    notifying = {who for who, statement in statements if "notify" in statement.lower()}
    assert notifying == {"everstep notify"}
    assert {"everstep commit", "everstep transaction", "everstep worker"} <= {
        who for who, _ in statements
    }
    # Each of them is a transaction of its own: nothing that is to be durable waits for the lock of the commit queue.
    assert {
        s for who, s in statements if who == "everstep notify" and "begin" in s.lower()
    } == set()
