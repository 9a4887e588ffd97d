"""What both sides' programs measure with: memory, table sizes, percentiles, and waiting until SQL says so."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psycopg
from psycopg import sql


def memory_kb(pid: str) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return float(line.split()[1])
    told = subprocess.run(["ps", "-o", "rss=", "-p", pid], capture_output=True, check=True)
    return float(told.stdout)


def tables_kb(url: str, schema: str) -> float:
    """Tables of a schema with their indexes and large values."""
    total = number(
        url,
        "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = {}::regnamespace",
        schema,
    )
    return total / 1024


def number(url: str, statement: str, *literals: str) -> float:
    """The one number a query gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(sql.SQL(statement).format(*literals)).fetchone()
    assert found is not None
    return float(found[0] or 0)


def wait_until_count(url: str, statement: str, at_least: float) -> None:
    """Return when a count has come up to something; the caller's process is bounded in time."""
    while number(url, statement) < at_least:
        time.sleep(0.2)


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return {"p50_ms": 1e3 * middle, "p99_ms": 1e3 * high}
