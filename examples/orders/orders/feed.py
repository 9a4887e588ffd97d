"""Reads a file of order lines and starts one checkout per order.

    python -m orders.feed data/orders.csv --repeat 2 --wait

The workflow's id is the order's number, so a file fed twice starts nothing twice. `--repeat 2` sends the
file under two sets of ids, where a test wants more workflows than the file has orders.
"""

from __future__ import annotations

import asyncio
import csv
import os
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path

import click

import everstep
from everstep import Client, Handle
from orders.app import checkout
from orders.model import Line, Order, Receipt

AT_ONCE = 100


def read_orders(file: Path) -> list[Order]:
    """The orders of a file, in its order; the lines of an order follow each other."""
    with file.open(newline="") as lines:
        rows = groupby(csv.DictReader(lines), key=lambda row: row["number"])
        return [_order(list(group)) for _, group in rows]


async def start_all(
    client: Client, orders: Iterable[Order], suffix: str = ""
) -> AsyncIterator[Handle[Receipt]]:
    """Start a checkout for each order, a hundred at a time."""
    waiting = list(orders)
    while waiting:
        now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        started = [client.start(checkout, o, id=f"order-{o.number}{suffix}") for o in now]
        for handle in await asyncio.gather(*started):
            yield handle


def _order(rows: list[dict[str, str]]) -> Order:
    first = rows[0]
    return Order(
        number=int(first["number"]),
        customer=first["customer"],
        country=first["country"],
        currency=first["currency"],
        card=first["card"],
        placed_at=datetime.fromisoformat(first["placed_at"]),
        lines=[Line(row["sku"], int(row["quantity"]), Decimal(row["unit_price"])) for row in rows],
    )


async def _feed(file: Path, repeat: int, *, wait: bool) -> None:
    url = os.environ["EVERSTEP_DATABASE_URL"]
    schema = os.environ.get("EVERSTEP_SCHEMA", "everstep")
    orders = read_orders(file)
    async with Client.connect(url, schema) as client:
        suffixes = ["", *(f"-{i}" for i in range(2, repeat + 1))]
        handles = [h for s in suffixes async for h in start_all(client, orders, s)]
        click.echo(f"started {sum(h.created for h in handles)} of {len(handles)} workflows")
        if wait:
            failed = sum(await asyncio.gather(*(_failed(handle) for handle in handles)))
            click.echo(f"finished {len(handles)}, of which {failed} failed")


async def _failed(handle: Handle[Receipt]) -> bool:
    try:
        await handle.result()
    except everstep.WorkflowError:
        return True
    return False


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--repeat", default=1, show_default=True, help="Feed the file under so many sets of ids."
)
@click.option("--wait", is_flag=True, help="Return once all workflows have finished.")
def main(file: Path, repeat: int, wait: bool) -> None:
    """Start a checkout for each order in FILE."""
    asyncio.run(_feed(file, repeat, wait=wait))


if __name__ == "__main__":
    main()
