"""A bicycle repair shop, written so that a type checker knows every value: `mypy --strict` passes.

`assert_type` says what the checker knows at that place; when the program runs it does nothing.
desk.py starts these workflows; wrong.py has the mistakes that the checker finds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_type
from uuid import UUID

import everstep
from everstep import App, Overlap, Rate, Retry, StepError, sync

app = App("repairs")

workbench = app.queue("workbench", worker_concurrency=4)
letters = app.queue("letters", rate=Rate(100, per=timedelta(seconds=1)))


@dataclass
class Bike:
    number: int
    owner: str
    broken: list[str]


@dataclass
class Bill:
    bike: int
    cents: int


@dataclass
class Approval:
    by: str
    limit: int


# -- steps and transactions, of either colour -----------------------------------------------------


@app.step(retry=Retry(max_attempts=5, retry_on=(TimeoutError,)), timeout=timedelta(seconds=30))
async def quote(part: str) -> int:
    """Ask the wholesaler for a price, in cents."""
    await asyncio.sleep(0)
    return 100 * len(part)


@app.step
def mend(bike: Bike, part: str) -> str:
    """Work at the bench."""
    return f"{part} of {bike.number}"


@app.transaction
async def book(tx: everstep.Connection, bill: Bill) -> Bill:
    await tx.execute("INSERT INTO bill VALUES (%s, %s)", [bill.bike, bill.cents])
    return bill


@app.transaction
def booked(tx: everstep.PlainConnection, bike: int) -> int:
    row = tx.execute("SELECT sum(cents)::int AS cents FROM bill WHERE bike = %s", [bike]).fetchone()
    return int(row.cents or 0) if row is not None else 0


# -- an async workflow, and its children --------------------------------------------------------


@app.workflow(queue=workbench)
async def repair(bike: Bike, limit: int = 1_000) -> Bill:
    """One bike, from the desk to the bill."""
    prices = await asyncio.gather(*(quote(part) for part in bike.broken))
    cents = assert_type(sum(assert_type(prices, list[int])), int)
    if cents > limit:
        await everstep.set_event("needs approval", {"cents": cents})
        approval = assert_type(await approved(timedelta(days=7)), Approval)
        if approval.limit < cents:
            raise ValueError(f"{approval.by} allows only {approval.limit}")
    for part in bike.broken:
        done = assert_type(await everstep.run(mend, bike, part), str)
        await everstep.write_stream("done", done)
    bill = assert_type(await book(Bill(bike.number, cents)), Bill)
    letter = assert_type(await tell(bike.owner, bill), str)
    assert_type(await everstep.run(post, letter), int)
    return bill


async def approved(within: timedelta) -> Approval:
    try:
        return await everstep.recv("approval", timeout=within, as_type=Approval)
    except TimeoutError:
        return Approval("nobody", 0)


@app.workflow(queue=letters)
async def tell(owner: str, bill: Bill) -> str:
    """A child: awaited in `repair`, with a row and a queue of its own."""
    together = await asyncio.gather(everstep.now(), everstep.uuid(), quote("stamp"))
    when, number, price = assert_type(together, tuple[datetime, UUID, int])
    async with everstep.timeout(timedelta(hours=1)):
        price += assert_type(await asyncio.wait_for(quote("envelope"), 60), int)
    return f"{number}, {when:%Y}: {owner} pays {bill.cents + price} cents"


@app.workflow(queue=letters)
def post(letter: str) -> int:
    """A plain child; an async workflow calls it by everstep.run."""
    return len(letter.split())


@app.workflow
async def first_quote(parts: list[str]) -> str:
    """Children in the background, and whichever is done first."""
    handles = [await everstep.start(one_quote, part) for part in parts]
    first = await everstep.wait_first(handles)
    cents = assert_type(await first.result(), int)
    try:
        async for price in everstep.as_completed([quote(part) for part in parts]):
            cents = min(cents, assert_type(price, int))
    except StepError as error:
        return error.failure.message
    return f"{cents} cents"


@app.workflow
async def one_quote(part: str) -> int:
    return assert_type(await quote(part), int)


# -- a plain workflow ---------------------------------------------------------------------------


@app.workflow
def month_end(bikes: list[int]) -> dict[str, int]:
    """The same language without `await`."""
    sums = assert_type(sync.gather(*(sync.call(total, bike) for bike in bikes)), tuple[int, ...])
    pair = sync.gather(sync.call(quote, "ink"), sync.call(tell, "the bank", Bill(0, sum(sums))))
    assert_type(pair, tuple[int, str])
    ink, letter = pair
    handle = assert_type(sync.start(tell, "the owner", Bill(0, ink)), sync.ChildHandle[str])
    words = assert_type(post(letter), int) + assert_type(sync.run(post, handle.result()), int)
    assert_type(sync.random(), float)
    sync.set_event("letters", 2)
    return {"sum": sum(sums), "ink": ink, "words": words}


@app.workflow
def total(bike: int) -> int:
    return assert_type(booked(bike), int)


@app.schedule("0 18 * * 5", timezone="Europe/Paris", overlap=Overlap.SKIP)
async def sweep_up(tick: datetime) -> str:
    brooms = 2 if everstep.patched("two brooms") else 1
    return f"{tick:%H} o'clock, {brooms} brooms"
