"""`make bench`: everstep beside DBOS, in one run, on one Postgres with fsync on. Prints a table of ratios.

Each measurement runs in turns (everstep, DBOS, everstep, …) so that a machine that drifts drifts for both;
the median of the turns is shown. The figures are ratios first: absolute ones are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from everstep.embedded import EmbeddedPostgres

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Side:
    """One system: how its program is run, and the database it has to itself."""

    name: str
    command: tuple[str, ...]
    url: str

    def measure(self, *arguments: str) -> dict[str, float]:
        done = subprocess.run(
            [*self.command, arguments[0], self.url, *arguments[1:]],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{self.name} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @contextmanager
    def idle_worker(self) -> Iterator[None]:
        process = subprocess.Popen(
            [*self.command, "worker", self.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                sys.exit(f"{self.name}: its worker did not start")
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


@dataclass(frozen=True)
class Measurement:
    """What is measured: a verb of the side programs, with a size for each of the two."""

    title: str
    key: str
    verb: str
    mine: tuple[str, ...]
    theirs: tuple[str, ...]
    higher_is_better: bool = True
    scale: float = 1.0
    needs_worker: bool = False


def measurements(size: float) -> list[Measurement]:
    def n(count: int) -> str:
        return str(max(20, round(count * size)))

    return [
        Measurement(
            "one-step workflows/s, queued, end to end",
            "workflows_per_s",
            "throughput",
            ("one", n(15_000)),
            ("one", n(1_000)),
        ),
        Measurement(
            "steps/s in ten-step workflows, queued",
            "workflows_per_s",
            "throughput",
            ("ten", n(3_000)),
            ("ten", n(100)),
            scale=10,
        ),
        Measurement(
            "start to result, direct, p50 ms",
            "p50_ms",
            "direct",
            (n(1_000),),
            (n(300),),
            higher_is_better=False,
        ),
        Measurement(
            "start to result, direct, p99 ms",
            "p99_ms",
            "direct",
            (n(1_000),),
            (n(300),),
            higher_is_better=False,
        ),
        Measurement(
            "start on a queue to running elsewhere, p50 ms",
            "p50_ms",
            "latency",
            (n(60),),
            (n(20),),
            higher_is_better=False,
            needs_worker=True,
        ),
    ]


def run_once(side: Side, measurement: Measurement, size: tuple[str, ...]) -> float:
    if measurement.needs_worker:
        with side.idle_worker():
            figures = side.measure(measurement.verb, *size)
    else:
        figures = side.measure(measurement.verb, *size)
    return figures[measurement.key] * measurement.scale


def compare(
    mine: Side, theirs: Side | None, turns: int, size: float
) -> list[tuple[Measurement, list[float], list[float]]]:
    results = []
    plan = measurements(size)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(plan) * turns * (2 if theirs else 1))
        for measurement in plan:
            ours: list[float] = []
            other: list[float] = []
            for _ in range(turns):
                ours.append(run_once(mine, measurement, measurement.mine))
                progress.advance(task)
                if theirs:
                    other.append(run_once(theirs, measurement, measurement.theirs))
                    progress.advance(task)
            results.append((measurement, ours, other))
    return results


def new_database(server: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.url_of(name)


def bare_commit_ms(url: str) -> float:
    """p50 of one INSERT committed alone: what the disk and the driver cost on this machine."""
    seconds = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bare (n int)")
        for n in range(300):
            began = time.perf_counter()
            connection.execute("INSERT INTO bare VALUES (%s)", [n])
            seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def show(results: list[tuple[Measurement, list[float], list[float]]], bare: float) -> None:
    table = Table(title="everstep and DBOS, one worker process each, fsync on")
    table.add_column("what")
    for column in ("everstep", "DBOS", "ratio"):
        table.add_column(column, justify="right")
    for measurement, ours, other in results:
        mine = statistics.median(ours)
        theirs = statistics.median(other) if other else None
        ratio = "" if theirs is None else f"{_ratio(measurement, mine, theirs):.1f} x"
        table.add_row(
            measurement.title, _number(mine), "-" if theirs is None else _number(theirs), ratio
        )
    console = Console()
    console.print(table)
    console.print(
        f"One bare INSERT committed alone: {bare:.2f} ms (p50). {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}."
    )


def _ratio(measurement: Measurement, mine: float, theirs: float) -> float:
    return mine / theirs if measurement.higher_is_better else theirs / mine


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dbos-python", help="interpreter of an environment with dbos 3.4")
    parser.add_argument("--turns", type=int, default=3, help="turns per measurement (default 3)")
    parser.add_argument("--size", type=float, default=1.0, help="factor on the amount of work")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
        settings = {"max_wal_size": "4GB", "shared_buffers": "512MB"}
        with EmbeddedPostgres(Path(folder) / "postgres", settings=settings) as server:
            mine = Side(
                "everstep",
                (sys.executable, str(HERE / "everstep_side.py")),
                new_database(server, "everstep_bench"),
            )
            theirs = None
            if options.dbos_python:
                command = (options.dbos_python, str(HERE / "dbos_side.py"))
                theirs = Side("DBOS", command, new_database(server, "dbos_bench"))
            bare = bare_commit_ms(server.url)
            results = compare(mine, theirs, options.turns, options.size)
    if options.output == "json":
        print(
            json.dumps(
                {m.title: {"everstep": o, "dbos": t} for m, o, t in results}
                | {"bare_commit_ms": bare}
            )
        )
    else:
        show(results, bare)


if __name__ == "__main__":
    main()
