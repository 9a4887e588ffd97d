"""A worker killed before and after every statement, effect and record of a workflow: all come to the same end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.crash_app import BOOKINGS, app_of, expected
from support.crash_checks import Log, check_effects, check_executions, log_of
from support.crash_points import worth_it
from support.database import Sql, fresh_database
from support.fleet import TESTS
from support.ledger import Ledger

from everstep import Client, Settings, Worker

REPEATS = 2
AT_ONCE = 12


@pytest.mark.slow
async def test_a_worker_killed_at_any_point_is_replaced_and_nothing_shows(
    database, sql, postgres, tmp_path
):
    points, undisturbed = await points_of_one_run(postgres, tmp_path)
    for kind in ("start", "claim", "commit", "record", "step", "begin", "end of transaction"):
        assert any(kind in point for point in points), f"no worker would die around a {kind}"
    sql(BOOKINGS)
    jobs = list(enumerate(points * REPEATS))
    ended = await run_workers(database, tmp_path / "ledger", tmp_path / "seen", jobs)
    assert "failed" not in ended.values()
    reached = Counter(points[n % len(points)] for n, how in ended.items() if how == "killed")
    print(f"{len(points)} points, {len(reached)} reached, {reached.total()} kills")
    assert len(reached) >= 60
    assert reached.total() >= REPEATS * 60

    interrupted = interrupted_at_most_once(sql)
    results = await heirs(database, tmp_path / "ledger", len(jobs))
    print(f"{len(interrupted)} interrupted, all others as if nothing had happened")
    assert interrupted
    for number, result in results.items():
        once = "interrupted" if f"crash-{number}" in interrupted else "ran"
        assert result == expected(number, once=once), points[number % len(points)]
    for number in results:
        assert log_of(sql, number) == undisturbed, points[number % len(points)]
    check_effects(sql, len(jobs))
    check_executions(Ledger(tmp_path / "ledger"))


async def points_of_one_run(postgres, folder: Path) -> tuple[list[str], Log]:
    """Every point that an undisturbed worker passes, and the log it leaves."""
    with fresh_database(postgres) as name:
        url = postgres.url(name)
        sql = Sql(url)
        sql(BOOKINGS)
        ended = await run_workers(url, folder / "first", folder / "passed", [(0, "none")])
        log = log_of(sql, 0)
        sql.close()
    assert ended == {0: "finished"}
    return worth_it(json.loads((folder / "passed").read_text())), log


async def run_workers(
    url: str, ledger: Path, seen: Path, jobs: list[tuple[int, str]]
) -> dict[int, str]:
    """One process for each point; how each ended."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.crash_points", url, ledger, seen, str(AT_ONCE)),
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'runtime'}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    lines = "".join(f"{json.dumps(job)}\n" for job in jobs)
    said, _ = await program.communicate(lines.encode())
    assert program.returncode == 0
    return dict(json.loads(line) for line in said.splitlines())


def interrupted_at_most_once(sql: Sql) -> set[str]:
    """Workflows whose at-most-once step has its mark and no outcome: of those nobody knows whether it ran."""
    rows = sql(
        "SELECT m.workflow_id FROM everstep.checkpoint m WHERE m.kind = 12 AND NOT EXISTS ("
        "SELECT FROM everstep.checkpoint c WHERE c.workflow_id = m.workflow_id AND c.branch = m.branch "
        "AND c.seq = m.seq + 1)"
    )
    return {row.workflow_id for row in rows}


async def heirs(url: str, ledger: Path, count: int) -> dict[int, Any]:
    """One worker that takes over all of them; whoever started them asks again, as after any lost reply."""
    app = app_of(range(count), Ledger(ledger))
    # Its own lease is long: what it loses by standing still would be told as interrupted, too.
    settings = Settings(url=url, lease_ttl=12.0, grace=5.0, max_crashes=100)
    async with Worker(app, settings), Client.connect(url) as client:
        handles = [
            await client.start(app.workflows[f"reference-{n}"], id=f"crash-{n}")
            for n in range(count)
        ]
        async with asyncio.timeout(120):
            return dict(enumerate(await asyncio.gather(*[handle.result() for handle in handles])))
