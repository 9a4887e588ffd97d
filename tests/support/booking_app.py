"""A booking on another database, in worker processes of their own that can be made to die or stall at any point.

DIE_AT=point: the first process that gets there kills itself; FIRST=file says whether that has happened.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import everstep
from everstep import App, Database
from everstep.store import transactions
from everstep.store.transactions import Transactor
from support.ledger import Ledger

app = App("bookings")
there = Database("there")
POINTS = ("marked", "in the middle", "recorded", "committed", "checkpointed")


def reached(point: str) -> None:
    """SIGKILL for the first process that is to die here."""
    if os.environ.get("DIE_AT") == point and first():
        os.kill(os.getpid(), signal.SIGKILL)


def first() -> bool:
    """Whether nobody has asked before."""
    try:
        os.close(os.open(os.environ["FIRST"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@app.transaction(database=there)
async def book(tx: everstep.Connection, number: int) -> int:
    await tx.execute("INSERT INTO booked VALUES (%s)", [number])
    reached("in the middle")
    return await total(tx)


async def total(tx: everstep.Connection) -> int:
    row = await (await tx.execute("SELECT count(*) FROM booked")).fetchone()
    return int(next(iter(row or (0,))))


@app.transaction(database=there)
def plainly(tx: everstep.PlainConnection, number: int) -> int:
    tx.execute("INSERT INTO booked VALUES (%s)", [number])
    reached("in the middle")
    row = tx.execute("SELECT count(*) FROM booked").fetchone()
    return int(next(iter(row or (0,))))


@app.transaction(database=there)
async def hold(tx: everstep.Connection, seconds: float) -> str:
    return await _hold(tx, seconds)


@app.transaction
async def hold_here(tx: everstep.Connection, seconds: float) -> str:
    return await _hold(tx, seconds)


async def _hold(tx: everstep.Connection, seconds: float) -> str:
    """Change an account, and, the first time, stay in the transaction."""
    await tx.execute("UPDATE account SET cents = cents + 1")
    if first():
        Ledger(Path(os.environ["HELD"])).write("held", "now")
        time.sleep(seconds)  # noqa: ASYNC251  (the process is frozen meanwhile)
    await tx.execute("UPDATE account SET cents = cents + 1")
    return "done"


@app.step
async def after() -> None:
    reached("checkpointed")


@app.workflow
async def buy(number: int) -> int:
    counted = await book(number)
    await after()
    return counted


@app.workflow
def buy_plainly(number: int) -> int:
    return plainly(number)


@app.workflow
async def hold_on(seconds: float) -> str:
    return await hold(seconds)


@app.workflow
async def hold_on_here(seconds: float) -> str:
    return await hold_here(seconds)


def _install() -> None:
    """Points between statements, which no user's code passes."""
    run, run_plain = Transactor.run, Transactor.run_plain
    row_of, async_row_of = transactions.row_of, transactions.async_row_of

    async def dying_run(self: Transactor, place: Any, call: Any) -> Any:
        reached("marked")
        value = await run(self, place, call)
        reached("committed")
        return value

    def dying_run_plain(self: Transactor, place: Any, call: Any) -> Any:
        reached("marked")
        value = run_plain(self, place, call)
        reached("committed")
        return value

    async def dying_async_row_of(tx: Any, statement: bytes, arguments: Any) -> Any:
        row = await async_row_of(tx, statement, arguments)
        if b"INTO public.everstep_transaction" in statement:
            reached("recorded")
        return row

    def dying_row_of(tx: Any, statement: bytes, arguments: Any) -> Any:
        row = row_of(tx, statement, arguments)
        if b"INTO public.everstep_transaction" in statement:
            reached("recorded")
        return row

    Transactor.run, Transactor.run_plain = dying_run, dying_run_plain  # type: ignore[method-assign]
    transactions.async_row_of, transactions.row_of = dying_async_row_of, dying_row_of


_install()
