"""The demo: 500 orders through two workers, one of which is killed halfway. `make demo` runs it.

It exits 0 if nothing was lost, no recorded step ran again and `everstep doctor` found nothing; 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path

from orders.app import checkout
from orders.feed import read_orders
from orders.model import Order
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from stage import HERE, WorkerDied, WorkerProcess, database, run_everstep, workers
from tally import Connection, Tally, count

import everstep
from everstep import Client

FOLDER = HERE.parent.parent / ".everstep" / "demo"
FILE = HERE / "data" / "orders.csv"
OPEN_AT_ONCE = 200
PATIENCE_SECONDS = 120

console = Console(highlight=False)


@dataclass
class Rescue:
    """What the killed worker held (epoch by workflow id), and when each of them ran again."""

    held: dict[str, int] = field(default_factory=dict)
    ran_again: dict[str, float] = field(default_factory=dict)


def main() -> int:
    # A SIGTERM ends the demo as Ctrl-C does, through every `finally`; and both work in the background too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=FOLDER, help="folder of the database")
    folder = options.parse_args().data.absolute()
    try:
        with database(folder) as url:
            return 0 if show(url, folder) else 1
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (everstep.EverstepError, WorkerDied) as error:
        console.print(f"[red]the demo cannot go on:[/] {escape(str(error))}", soft_wrap=True)
        return 1


def show(url: str, folder: Path) -> bool:
    """The whole demo against an empty database. Returns whether all is well."""
    orders = {f"order-{order.number}": order for order in read_orders(FILE)}
    ledger = folder / "ledger.jsonl"
    ledger.unlink(missing_ok=True)
    migrate(url)
    with workers(2, url, folder, ledger) as fleet:
        tally, rescue, seconds = asyncio.run(play(url, fleet, orders, ledger))
    well = conclude(url, tally, rescue, seconds)
    where_next(folder)
    return well


def migrate(url: str) -> None:
    done = run_everstep(url, "migrate", "--files", "migrations")
    if done.returncode:
        raise SystemExit(
            f"everstep migrate ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    say("schema", done.stdout.splitlines()[-1])


async def play(
    url: str, fleet: list[WorkerProcess], orders: dict[str, Order], ledger: Path
) -> tuple[Tally, Rescue, float]:
    """Feed the orders, kill a worker when half of them have finished, wait for the rest, and count."""
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        await Connection.connect(url, autocommit=True) as connection,
        Client.connect(url) as client,
    ):
        await fleet_is_ready(connection, fleet)
        began = time.monotonic()
        rescue = await feed_and_kill(client, connection, fleet, orders)
        seconds = time.monotonic() - began
        return await count(connection, orders, rescue.held, ledger), rescue, seconds


async def fleet_is_ready(connection: Connection, fleet: list[WorkerProcess]) -> None:
    while True:
        cursor = await connection.execute("SELECT count(*) FROM everstep.v1_workers")
        if await cursor.fetchone() == (len(fleet),):
            break
        for worker in fleet:
            worker.check()
        await asyncio.sleep(0.05)
    say("workers", ", ".join(f"{w.pod} (pid {w.process.pid})" for w in fleet))


async def feed_and_kill(
    client: Client, connection: Connection, fleet: list[WorkerProcess], orders: dict[str, Order]
) -> Rescue:
    rescue = Rescue()
    room = asyncio.Semaphore(OPEN_AT_ONCE)
    half = asyncio.Event()
    with bars(len(orders)) as (progress, started, finished):

        async def one(id_: str, order: Order) -> None:
            async with room:
                handle = await client.start(checkout, order, id=id_)
                progress.advance(started)
                # What failed and why is read from the database, below.
                with suppress(everstep.WorkflowError):
                    await handle.result()
                progress.advance(finished)
                if progress.tasks[finished].completed * 2 >= len(orders):
                    half.set()

        async with asyncio.TaskGroup() as tasks:
            for id_, order in orders.items():
                tasks.create_task(one(id_, order))
            await half.wait()
            fleet[0].kill()
            progress.print(f"[bold]{fleet[0].pod} is killed[/] (SIGKILL)")
            rescue.held = await held_by(connection, fleet[0].pod)
            tasks.create_task(watch(connection, rescue))
    return rescue


async def held_by(connection: Connection, pod: str) -> dict[str, int]:
    cursor = await connection.execute(
        "SELECT r.id, r.epoch FROM everstep.run r JOIN everstep.worker k ON k.id = r.worker_id WHERE k.pod = %s",
        [pod],
    )
    return dict(await cursor.fetchall())


async def watch(connection: Connection, rescue: Rescue) -> None:
    """Note when each held workflow runs again: a rescue and a claim have raised its epoch by two."""
    killed_at = time.monotonic()
    while waiting := rescue.held.keys() - rescue.ran_again.keys():
        cursor = await connection.execute(
            "SELECT h.id FROM unnest(%s::text[], %s::int[]) AS h(id, epoch) "
            "LEFT JOIN everstep.run r ON r.id = h.id WHERE r.id IS NULL OR r.epoch >= h.epoch + 2",
            [list(waiting), [rescue.held[id_] for id_ in waiting]],
        )
        now = time.monotonic() - killed_at
        rescue.ran_again.update({id_: now for (id_,) in await cursor.fetchall()})
        await asyncio.sleep(0.02)


@contextmanager
def bars(total: int) -> Iterator[tuple[Progress, TaskID, TaskID]]:
    """Two bars in a terminal; in a pipe, the same as plain lines once done."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(40), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        yield (
            progress,
            progress.add_task("started", total=total),
            progress.add_task("finished", total=total),
        )


def conclude(url: str, tally: Tally, rescue: Rescue, seconds: float) -> bool:
    """Print the table and the verdict. Returns whether all is well."""
    console.print(table_of(tally, rescue, seconds))
    doctor = run_everstep(url, "doctor")
    problems = [*tally.lost, *tally.repeated]
    if doctor.returncode:
        problems.append(
            f"everstep doctor ended with {doctor.returncode}:\n{doctor.stdout}{doctor.stderr}"
        )
    for problem in problems[:20]:
        console.print(f"[red]wrong:[/] {escape(problem)}", soft_wrap=True)
    if not problems:
        console.print(
            "[green]Nothing was lost, no recorded step ran again, and doctor found nothing.[/]"
        )
    return not problems


def table_of(tally: Tally, rescue: Rescue, seconds: float) -> Table:
    table = Table(
        "", "", title="What became of the orders", show_header=False, title_justify="left"
    )
    table.columns[1].justify = "right"
    times = sorted(rescue.ran_again.values())
    rows: list[tuple[str, object]] = [
        ("workflows started", tally.started),
        ("finished", tally.succeeded + tally.failed_validation),
        ("  of which failed validation", tally.failed_validation),
        ("lost", len(tally.lost)),
        ("steps recorded", tally.steps),
        ("charges the provider refused, tried again", tally.refused),
        ("steps executed twice (killed before the checkpoint)", tally.executed_twice),
        ("recorded steps executed again", len(tally.repeated)),
        ("workflows rescued from the killed worker", len(rescue.ran_again)),
        ("seconds until they ran again", f"{times[0]:.1f} to {times[-1]:.1f}" if times else "-"),
        ("workflows/s, rescue included", f"{tally.started / seconds:.0f}"),
    ]
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def say(what: str, text: str) -> None:
    console.print(f"[bold]{what:<10}[/] {text}")


def where_next(folder: Path) -> None:
    """The database is stopped and kept; one command starts it again, and says how to ask it."""
    command = relpath(Path(sys.executable).with_name("everstep"), HERE)
    console.print("\n[bold]Where to look next[/]")
    for line, what in (
        (f"cd {relpath(HERE)}", ""),
        (
            f"{command} dev orders.app:app --data {relpath(folder, HERE)}",
            "starts this database and a worker again, and prints the line to export; then, elsewhere:",
        ),
        (f"{command} workflow list --status failed", "the orders that failed, and why"),
        (f"{command} workflow steps order-10001", "what was recorded of one order"),
        (
            'psql "$EVERSTEP_DATABASE_URL"',
            "SELECT * FROM everstep.workflows; SELECT * FROM everstep.steps; docs/guides/sql.md has more",
        ),
        ("curl http://127.0.0.1:9464/metrics", "what Prometheus sees"),
    ):
        console.print(f"  {line}", soft_wrap=True)
        if what:
            console.print(f"      [dim]{what}[/]", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
