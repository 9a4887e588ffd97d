"""Worker processes that die or freeze in the middle of transactions, at every point: exactly once all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.database import Sql
from support.elsewhere import Elsewhere, another_database
from support.fleet import Fleet
from support.ledger import Ledger
from support.server import Server
from support.standstill import Standstill
from support.waiting import eventually

from everstep import Client

POINTS = ("marked", "in the middle", "recorded", "committed", "checkpointed")


@pytest.fixture
def elsewhere(postgres: Server) -> Iterator[Elsewhere]:
    with another_database(postgres) as there:
        yield there


def fleet_of(url: str, elsewhere: Elsewhere, folder: Path, **environment: str) -> Fleet:
    return Fleet(
        url,
        folder,
        module="support.booking_app:app",
        environment={
            "EVERSTEP_DATABASE_URL_THERE": elsewhere.url,
            "EVERSTEP_LEASE_SECONDS": "1.5",
            "FIRST": str(folder / "first"),
            "HELD": str(folder / "held"),
            **environment,
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "flow"), [*((point, "buy") for point in POINTS), ("committed", "buy_plainly")]
)
async def test_a_worker_killed_there_has_booked_once(
    database: str, client: Client, elsewhere: Elsewhere, tmp_path: Path, point: str, flow: str
) -> None:
    with fleet_of(database, elsewhere, tmp_path, DIE_AT=point) as fleet:
        fleet.start(2)
        handle = await client.start_named(flow, {"number": 7})
        assert await handle.result(40) == 1, fleet.logs()
        assert fleet.died_by_themselves() == [-9]
    assert elsewhere.booked == [7]
    assert elsewhere.sql.one("SELECT count(*) FROM everstep_transaction") == 1


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["hold_on", "hold_on_here"])
async def test_a_frozen_transaction_keeps_its_locks_for_eleven_seconds_at_most(
    database: str, client: Client, elsewhere: Elsewhere, sql: Sql, tmp_path: Path, flow: str
) -> None:
    there = elsewhere.sql if flow == "hold_on" else sql
    url = elsewhere.url if flow == "hold_on" else database
    there("CREATE TABLE account (cents int); INSERT INTO account VALUES (0)")
    with fleet_of(database, elsewhere, tmp_path) as fleet:
        fleet.start()
        handle = await client.start_named(flow, {"seconds": 13.0})
        await eventually((tmp_path / "held").exists, within=30)
        (frozen,) = fleet.workers
        with Standstill() as still:
            fleet.freeze(frozen)
            fleet.start()
            async with await psycopg.AsyncConnection.connect(url) as other:
                await other.execute("SELECT cents FROM account FOR UPDATE")
                free = time.time()
        # From when it was held: this process may have been slow to notice.
        (held,) = Ledger(tmp_path / "held").entries()
        waited = free - held.began
        assert await handle.result(30) == "done"
        assert 5 < waited <= 11 + still.seconds, waited
        print(f"the lock was free after {waited:.1f} s")
        # Awake again, it goes on where it was, in a transaction that is gone.
        await asyncio.to_thread(time.sleep, max(0.0, held.began + 13.0 - time.time()))
        fleet.thaw(frozen)
        await eventually(lambda: "lease lost" in fleet.logs(), within=30)
        assert await (await client.start_named(flow, {"seconds": 0.0})).result(30) == "done"
    assert there.one("SELECT cents FROM account") == 4
