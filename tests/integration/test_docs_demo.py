"""`make demo` as a user runs it, and the tally that decides whether it went well."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import psycopg
import pytest
from support.pages import TOP

ORDERS = TOP / "examples" / "orders"


@pytest.mark.slow
def test_the_demo_loses_nothing_and_says_so(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVERSTEP_")}
    done = subprocess.run(
        [sys.executable, str(ORDERS / "demo.py"), "--data", str(tmp_path / "demo")],
        env={**environment, "PYTHONPATH": str(TOP / "runtime")},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"│ +(.+?) +│ +(\S.*?) +│", done.stdout))
    assert rows["workflows started"] == rows["finished"] == "500"
    assert rows["of which failed validation"] == "14"
    assert rows["lost"] == rows["recorded steps executed again"] == "0"
    assert int(rows["workflows rescued from the killed worker"]) > 0
    assert not still_running(str(tmp_path))


def still_running(folder: str) -> str:
    return subprocess.run(
        ["pgrep", "-a", "-f", folder], capture_output=True, text=True, check=False
    ).stdout


@pytest.fixture
async def shop(database, worker, monkeypatch, tmp_path):
    """Three orders taken by a worker: two good ones, and one that must not be taken."""
    monkeypatch.syspath_prepend(str(ORDERS))
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    monkeypatch.setenv("ORDERS_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("ORDERS_PACKING_SECONDS", "0")
    for name in [m for m in sys.modules if m.split(".")[0] in ("orders", "tally")]:
        monkeypatch.delitem(sys.modules, name)
    import tally
    from orders.app import app, checkout
    from orders.feed import read_orders

    from everstep.migrations.migrate import migrate

    migrate(database, "everstep", ORDERS / "migrations")
    chosen = [
        o for o in read_orders(ORDERS / "data/orders.csv") if o.number in (10001, 10002, 10051)
    ]
    orders = {f"order-{o.number}": o for o in chosen}
    running = await worker(app)
    handles = [await running.client.start(checkout, o, id=id_) for id_, o in orders.items()]
    for handle in handles:
        await handle._outcome()
    for connection in [*_free(sys.modules["orders.app"].database())]:
        await connection.close()

    async def count(rescued=()):
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            return await tally.count(connection, orders, rescued, tmp_path / "ledger")

    return count


def _free(database):
    while not database._free.empty():
        if (connection := database._free.get_nowait()) is not None:
            yield connection


async def test_a_good_run_is_counted_and_nothing_is_found(shop):
    tally = await shop()
    assert (tally.started, tally.succeeded, tally.failed_validation) == (3, 2, 1)
    assert (tally.lost, tally.repeated, tally.executed_twice) == ([], [], 0)


async def test_a_lost_workflow_is_found(shop, sql):
    sql("DELETE FROM everstep.workflow WHERE id = 'order-10001'")
    sql("DELETE FROM everstep.checkpoint WHERE workflow_id = 'order-10001'")
    (found,) = (await shop()).lost
    assert found.startswith("order-10001 is unknown to the database")


async def test_a_missing_and_a_needless_effect_are_found(shop, sql):
    sql("DELETE FROM orders.shipment WHERE order_id = 'order-10001'")
    sql("UPDATE orders.booking SET order_id = 'order-10051' WHERE order_id = 'order-10002'")
    assert (await shop()).lost == [
        "order-10001 (succeeded): shipment 0 times",
        "order-10002 (succeeded): booking 0 times",
        "order-10051 (failed): booking 1 times",
    ]


async def test_a_charge_that_ran_twice_is_excused_only_by_a_killed_worker(shop, tmp_path):
    ledger = tmp_path / "ledger"
    charged = [
        line for line in ledger.read_text().splitlines() if json.loads(line)["outcome"] == "charged"
    ]
    ledger.write_text(ledger.read_text() + charged[0] + "\n")
    twice = json.loads(charged[0])["order_id"]
    (found,) = (await shop()).repeated
    assert found == f"{twice}: charged 2 times, though no worker died under it"
    excused = await shop(rescued=[twice])
    assert (excused.repeated, excused.executed_twice) == ([], 1)
