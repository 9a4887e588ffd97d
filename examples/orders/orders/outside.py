"""The world outside the engine: the shop's own SQL tables, and a payment provider that is sometimes down.

The provider keeps a ledger of every attempt to charge. It is written outside the engine's transaction, as a
real provider's would be, so a step that ran twice is there twice. `ORDERS_LEDGER` says where it is: the path
of a file, or the URL of a database; by default the table ledger.charge_attempt of the app's own database.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

import psycopg

Connection = psycopg.AsyncConnection[tuple[object, ...]]


class ProviderDown(Exception):
    """The payment provider did not answer: trying again helps."""


class Database:
    """A few connections for this process, each used by one statement at a time, opened when first needed."""

    def __init__(self, url: str, connections: int = 8) -> None:
        self._url = url
        self._free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(connections):
            self._free.put_nowait(None)

    async def execute(self, statement: str, values: Sequence[object]) -> None:
        connection = await self._free.get()
        try:
            if connection is None or connection.closed:
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, application_name="orders"
                )
            await connection.execute(statement.encode(), values)
        finally:
            self._free.put_nowait(connection)


@dataclass(frozen=True)
class Charge:
    """One attempt to charge, as the ledger keeps it. `key` is the same for all attempts of one step."""

    key: str
    order_id: str
    attempt: int
    outcome: str
    amount: Decimal
    currency: str
    pod: str
    version: str


class Ledger(Protocol):
    async def write(self, charge: Charge) -> None: ...


class FileLedger:
    """A line of JSON per attempt. O_APPEND: lines of several processes do not mix."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def write(self, charge: Charge) -> None:
        entry = {**asdict(charge), "at": datetime.now(UTC).isoformat()}
        os.write(self._file, json.dumps(entry, default=str).encode() + b"\n")


class TableLedger:
    """A row per attempt, through a plain connection of its own."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    async def write(self, charge: Charge) -> None:
        await self._database.execute(
            "INSERT INTO ledger.charge_attempt (key, order_id, attempt, outcome, amount, currency, pod, version) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            list(asdict(charge).values()),
        )


class Provider:
    """A simulated payment provider. Whether it is down for an attempt depends on the seed alone."""

    def __init__(self, ledger: Ledger, *, seed: str, failure_rate: float, seconds: float) -> None:
        self._ledger = ledger
        self._seed, self._failure_rate, self._seconds = seed, failure_rate, seconds
        self._pod = os.environ.get("EVERSTEP_POD") or socket.gethostname()
        self._version = os.environ.get("EVERSTEP_VERSION") or "unversioned"

    async def charge(
        self, key: str, *, order_id: str, attempt: int, amount: Decimal, currency: str
    ) -> str:
        """Take the money and return the payment's number. Raises ProviderDown now and then."""
        await asyncio.sleep(self._seconds)
        down = random.Random(f"{self._seed} {key} {attempt}").random() < self._failure_rate
        outcome = "unavailable" if down else "charged"
        await self._ledger.write(
            Charge(key, order_id, attempt, outcome, amount, currency, self._pod, self._version)
        )
        if down:
            raise ProviderDown(f"the provider did not answer attempt {attempt} for {order_id}")
        return f"pay-{random.Random(f'{self._seed} {key}').randrange(16**10):010x}"


def ledger_from_environment() -> Ledger:
    where = os.environ.get("ORDERS_LEDGER") or os.environ["EVERSTEP_DATABASE_URL"]
    return TableLedger(where) if "://" in where or "=" in where else FileLedger(where)
