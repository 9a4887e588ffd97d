"""What the demo came to: counted in the database, in the shop's tables and in the provider's ledger.

The three must agree. `Tally.lost` and `Tally.repeated` say in words where they do not; both are empty unless
the engine is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from orders.model import InvalidOrder, Order, total_of

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Charges:
    """The ledger by workflow: how often each step charged, and how often the provider was down."""

    charged: Mapping[str, int]
    refused: int


@dataclass(frozen=True)
class Tally:
    started: int
    succeeded: int
    failed_validation: int
    steps: int
    refused: int
    executed_twice: int
    lost: list[str]
    repeated: list[str]


def read_ledger(file: Path) -> Charges:
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    charged = Counter(e["order_id"] for e in entries if e["outcome"] == "charged")
    return Charges(charged, sum(e["outcome"] == "unavailable" for e in entries))


async def count(
    connection: Connection, orders: Mapping[str, Order], rescued: Collection[str], ledger: Path
) -> Tally:
    """Count, and hold every order against what should have become of it."""
    found = await _workflows(connection)
    charges = read_ledger(ledger)
    executions = {"charged": charges.charged}
    for table in ("booking", "shipment"):
        executions[table] = await _executions(connection, table)
    invalid = {id_ for id_, order in orders.items() if _is_invalid(order)}
    (steps,) = await _row(connection, "SELECT count(*) FROM everstep.steps")
    return Tally(
        started=len(found),
        succeeded=sum(status == "succeeded" for status, _ in found.values()),
        failed_validation=sum(error == "orders.model.InvalidOrder" for _, error in found.values()),
        steps=steps,
        refused=charges.refused,
        executed_twice=sum(n - 1 for times in executions.values() for n in times.values()),
        lost=_lost(orders, invalid, found, executions),
        repeated=_repeated(executions, rescued),
    )


def _lost(
    orders: Mapping[str, Order],
    invalid: Collection[str],
    found: Mapping[str, tuple[str, str | None]],
    executions: Mapping[str, Mapping[str, int]],
) -> list[str]:
    lost = []
    for id_ in orders:
        status, error = found.get(id_, ("unknown to the database", None))
        wanted = ("failed", "orders.model.InvalidOrder") if id_ in invalid else ("succeeded", None)
        if (status, error) != wanted:
            lost.append(f"{id_} is {status} ({error or 'no error'}), not {wanted[0]}")
        for what, times in executions.items():
            if (id_ in times) == (id_ in invalid):
                lost.append(f"{id_} ({status}): {what} {times.get(id_, 0)} times")
    return lost


def _repeated(executions: Mapping[str, Mapping[str, int]], rescued: Collection[str]) -> list[str]:
    """A step may run again only if its worker was killed between its effect and its checkpoint."""
    return [
        f"{id_}: {what} {n} times, though no worker died under it"
        for what, times in executions.items()
        for id_, n in times.items()
        if n > 1 and (id_ not in rescued or n > 2)
    ]


def _is_invalid(order: Order) -> bool:
    try:
        total_of(order)
    except InvalidOrder:
        return True
    return False


async def _workflows(connection: Connection) -> dict[str, tuple[str, str | None]]:
    cursor = await connection.execute("SELECT id, status, error_type FROM everstep.workflows")
    return {id_: (status, error) for id_, status, error in await cursor.fetchall()}


async def _executions(connection: Connection, table: str) -> dict[str, int]:
    cursor = await connection.execute(
        f"SELECT order_id, sum(executions)::int FROM orders.{table} GROUP BY order_id".encode()  # noqa: S608
    )
    return dict(await cursor.fetchall())


async def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    cursor = await connection.execute(query.encode())
    row = await cursor.fetchone()
    assert row is not None
    return row
