"""`make bench`: everstep beside DBOS, in one run, on one Postgres with fsync on. Prints a table of ratios.

Each measurement runs in turns (everstep, DBOS, DBOS, everstep, …) so that a machine that drifts drifts for both;
the median of the turns is shown. The figures are ratios first: absolute ones are this machine's.

With --against the other side is everstep's own code of another checkout: what did a change cost?
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from report import Result, as_json, show
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rows import Row, rows
from sides import HERE, AbsentError, Side

from everstep.embedded import EmbeddedPostgres

RUNTIME = HERE.parents[1] / "runtime"


def main() -> None:
    options = _options()
    chosen = [row for row in rows(options.size) if not options.only or row.name in options.only]
    with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
        settings = {"max_wal_size": "4GB", "shared_buffers": "512MB"}
        with EmbeddedPostgres(Path(folder) / "postgres", settings=settings) as server:
            mine = Side("everstep", "everstep", sys.executable, server, RUNTIME)
            other = _other(options, server)
            for side in filter(None, (mine, other)):
                side.prepare()
            bare = bare_commit_ms(server.url)
            results = compare(mine, other, chosen, options.turns)
    name = other and other.name
    if options.output == "json":
        print(as_json(results, name, bare))
    else:
        show(results, name, bare)


def compare(mine: Side, other: Side | None, chosen: list[Row], turns: int) -> list[Result]:
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for row in chosen:
            progress.update(task, description=row.name)
            began = time.perf_counter()
            results.append(_in_turns(mine, other, row, min(row.turns or turns, turns)))
            progress.advance(task)
            if not progress.console.is_terminal:
                print(f"{row.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return results


def _in_turns(mine: Side, other: Side | None, row: Row, turns: int) -> Result:
    result = Result(row)
    # An earlier everstep does the same amount of work; a row the rival has not is run by everstep alone.
    theirs = row.mine if other and other.prefix == mine.prefix else row.theirs
    given_up: set[str] = set()
    for turn in range(turns):
        pair = [(mine, row.mine, result.mine)]
        if other and theirs:
            pair.append((other, theirs, result.other))
        for side, sizes, figures in pair if turn % 2 == 0 else reversed(pair):
            if side.name in given_up:
                continue
            try:
                figures.append(
                    side.measure(row.program, row.verb, sizes, with_worker=row.with_worker)
                )
            except AbsentError as error:
                given_up.add(side.name)
                if side is mine:
                    result.mine_absent = str(error)
                else:
                    result.absent = str(error)
    return result


def _other(options: argparse.Namespace, server: EmbeddedPostgres) -> Side | None:
    if options.against:
        runtime = options.against.resolve() / "runtime"
        if not (runtime / "everstep").is_dir():
            sys.exit(f"--against {options.against}: there is no runtime/everstep in it")
        return Side("earlier", "everstep", sys.executable, server, runtime, may_lack=True)
    if options.dbos_python:
        return Side("DBOS", "dbos", options.dbos_python, server)
    return None


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


def _options() -> argparse.Namespace:
    names = [row.name for row in rows(1)]
    parser = argparse.ArgumentParser(description=__doc__)
    rival = parser.add_mutually_exclusive_group()
    rival.add_argument("--dbos-python", help="interpreter of an environment with dbos 3.4")
    rival.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="compare with the everstep of another checkout, instead of DBOS",
    )
    parser.add_argument("--turns", type=int, default=3, help="turns per measurement (default 3)")
    parser.add_argument("--size", type=float, default=1.0, help="factor on the amount of work")
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="ROW",
        help=f"only this row; may be repeated. Rows: {', '.join(names)}",
    )
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
