"""Everything the language says, said by thousands of workflows while their workers are killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from support.database import Sql, fresh_database
from support.fleet import Fleet, freeze_now_and_then, kill_now_and_then
from support.ledger import Ledger
from support.mixed_app import KINDS, app, expected, messages_from_outside, mixed, name_of
from support.waiting import eventually

from everstep import Client, Settings, Worker

LEASE_SECONDS = 3.0
WORKERS = 4
WORKFLOWS = int(os.environ.get("WORKFLOWS", "10000"))
BOOKINGS = "CREATE TABLE booking (key text, number integer)"


@pytest.mark.slow
async def test_ten_thousand_mixed_workflows_through_kills_freezes_and_zombies(
    database, sql, postgres, rng, tmp_path
):
    undisturbed = await logs_without_chaos(postgres)
    sql(BOOKINGS)
    began = time.monotonic()
    with fleet_of(WORKERS, database, tmp_path) as fleet:
        monkeys = [
            kill_now_and_then(fleet, rng, 2.0),
            freeze_now_and_then(fleet, rng, 5.0, 1.5 * LEASE_SECONDS),
        ]
        await start_and_survive(fleet, database, sql, monkeys, rng)
        seconds = time.monotonic() - began
        fenced = len(Ledger(tmp_path / "fenced").entries())
        print(
            f"{WORKFLOWS} workflows in {seconds:.0f} s: {fleet.kills} kills, {fleet.freezes} freezes, "
            f"{fenced} late writes refused"
        )
        assert fleet.died_by_themselves() == []
    check_results(sql)
    check_logs(sql, undisturbed)
    check_transactions(sql)
    check_messages(sql)
    check_executions(sql, Ledger(tmp_path / "ledger"))
    assert fleet.kills
    assert fleet.freezes
    assert fenced


def fleet_of(count: int, url: str, folder) -> Fleet:
    environment = {
        "LEDGER": str(folder / "ledger"),
        "FENCED": str(folder / "fenced"),
        "STALL_EVERY_BEATS": "33",
        "EVERSTEP_CONCURRENCY": "150",
        "EVERSTEP_MAX_CRASHES": "100",
        "EVERSTEP_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    }
    fleet = Fleet(url, folder, module="support.mixed_app:app", environment=environment)
    fleet.start(count)
    return fleet


async def start_and_survive(fleet: Fleet, url: str, sql: Sql, monkeys, rng) -> None:
    """Start and send while the monkeys are at the fleet, until every workflow has finished."""

    def finished() -> bool:
        done = "SELECT count(*) FROM everstep.workflow WHERE status <> 0 AND parent_id IS NULL"
        return sql.one(done) == WORKFLOWS

    tasks = [asyncio.ensure_future(monkey) for monkey in monkeys]
    try:
        async with Client.connect(url) as client:
            await start_all(client, WORKFLOWS)
            await send_all(client, WORKFLOWS, rng)
        await eventually(finished, within=900, what=f"{WORKFLOWS} workflows", pause=0.25)
    except AssertionError:
        print(fleet.logs(), *still_open(sql), sep="\n")
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def still_open(sql: Sql) -> list[Any]:
    return sql(
        "SELECT r.id, r.state, r.epoch, r.crashes, r.wake_at, r.wait_key, r.signals, r.waiters, "
        "ARRAY(SELECT name FROM everstep.checkpoint c WHERE c.workflow_id = r.id ORDER BY seq) AS log "
        "FROM everstep.run r LIMIT 20"
    )


async def start_all(client: Client, count: int) -> None:
    """In waves; the two of a pair in the same statement, so that each finds the other."""
    for wave in range(0, count, 500):
        numbers = range(wave, min(wave + 500, count))
        await asyncio.gather(*[client.start(mixed, n, id=name_of(n)) for n in numbers])


async def send_all(client: Client, count: int, rng: random.Random) -> None:
    """Each message several times under one key, as a sender does that never heard a reply."""
    for number in range(4, count, KINDS):
        for n, message in enumerate(messages_from_outside(number)):
            for _ in range(rng.choice((1, 1, 2, 3))):
                await client.send(name_of(number), message, "outside", key=f"key-{n}")


Log = list[tuple[str, int, int, str]]


async def logs_without_chaos(postgres) -> list[Log]:
    """The log of one workflow of each kind and its children, recorded by a worker that nobody disturbs."""
    with fresh_database(postgres) as name:
        sql = Sql(postgres.url(name))
        sql(BOOKINGS)
        settings = Settings(url=postgres.url(name), grace=5.0)
        async with Worker(app, settings), Client.connect(settings.url) as client:
            await start_all(client, KINDS)
            await send_all(client, KINDS, random.Random(1))
            for number in range(KINDS):
                await client.handle(mixed, name_of(number)).result(timeout=30)
        logs = logs_of(sql, KINDS)
        sql.close()
    return logs


def logs_of(sql: Sql, count: int) -> list[Log]:
    """By number: the positions of a workflow and its children, with its own number taken out of the names."""
    logs: list[Log] = [[] for _ in range(count)]
    rows = sql(
        "SELECT workflow_id, branch, seq, kind, name FROM everstep.checkpoint "
        'ORDER BY workflow_id, branch COLLATE "C", seq'
    )
    for row in rows:
        root = row.workflow_id.partition("/")[0]
        logs[int(root[1:])].append(
            (
                f"{row.workflow_id}:{row.branch}".replace(root, "me"),
                row.seq,
                row.kind,
                row.name.replace(root, "me"),
            )
        )
    return logs


def check_results(sql: Sql) -> None:
    """Nothing lost: all have finished, each with what follows from its number."""
    rows = sql(
        "SELECT id, status, convert_from(output, 'UTF8')::jsonb AS said FROM everstep.workflow "
        "WHERE parent_id IS NULL ORDER BY id"
    )
    assert [row.id for row in rows] == [name_of(n) for n in range(WORKFLOWS)]
    wrong = [
        (row.id, row.status, row.said)
        for number, row in enumerate(rows)
        if row.status != 1 or without_tokens(row.said) != expected(number)
    ]
    assert wrong == []
    assert sql.one("SELECT count(*) FROM everstep.run") == 0


def without_tokens(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in {"first", "last"}}


def check_logs(sql: Sql, undisturbed: list[Log]) -> None:
    """Nothing recorded twice and nothing left out: each log is that of the same workflow without chaos."""
    for number, log in enumerate(logs_of(sql, WORKFLOWS)):
        assert log == undisturbed[number % KINDS], f"workflow {number}"


def check_transactions(sql: Sql) -> None:
    """Each recorded transaction has its effect exactly once, and there is no other effect."""
    recorded = sql(
        "SELECT workflow_id || ':' || CASE branch WHEN '' THEN '' ELSE branch || ':' END || seq AS key "
        "FROM everstep.checkpoint WHERE kind = 11 ORDER BY 1"
    )
    effects = sql("SELECT key FROM booking ORDER BY 1")
    print(f"{len(effects)} effects of {len(recorded)} transactions")
    assert Counter(row.key for row in effects) == Counter(row.key for row in recorded)


def check_messages(sql: Sql) -> None:
    """Each message was received, by one recv of the workflow it was sent to."""
    rows = sql(
        "SELECT m.workflow_id, m.topic, m.consumed_branch, m.consumed_seq, c.seq AS received "
        "FROM everstep.message m LEFT JOIN everstep.checkpoint c ON c.workflow_id = m.workflow_id "
        "AND (c.branch, c.seq) = (m.consumed_branch, m.consumed_seq) AND c.kind = 4 AND c.output = m.body"
    )
    assert all(row.received is not None for row in rows)
    assert len({(row.workflow_id, row.consumed_branch, row.consumed_seq) for row in rows}) == len(
        rows
    )
    assert Counter(row.topic for row in rows) == {
        "talk": WORKFLOWS,
        "outside": 2 * WORKFLOWS // KINDS,
    }
    print(f"{len(rows)} messages")


def check_executions(sql: Sql, ledger: Ledger) -> None:
    """What is recorded has happened; what happened again was not recorded, and is counted."""
    executions = ledger.executions()
    happened = {(entry.key, entry.token) for entry in ledger.entries()}
    rows = sql(
        "SELECT workflow_id || ':' || CASE branch WHEN '' THEN '' ELSE branch || ':' END || seq AS key, "
        "convert_from(output, 'UTF8')::jsonb #>> '{}' AS token FROM everstep.checkpoint WHERE kind = 1"
    )
    assert all((row.key, row.token or "refused") in happened for row in rows)
    assert executions.keys() == {row.key for row in rows}
    again = sum(executions.values()) - len(executions)
    print(
        f"{sum(executions.values())} executions of {len(rows)} steps: "
        f"{100 * again / len(rows):.2f} % executed again"
    )
