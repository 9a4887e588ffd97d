"""The application of the mixed chaos: each workflow says several things of the language, to others and to itself.

Everything a workflow returns follows from its number, apart from the tokens of its steps. `expected` says what
that is, without running anything. Pairs (0, 1), (2, 3), … talk with each other.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import everstep
from everstep import App, StepError, WorkflowError
from support import failpoints
from support.ledger import Ledger

app = App("mixed")
narrow = app.queue("narrow", max_running=25)
ledger = Ledger(Path(os.environ.get("LEDGER", os.devnull)))
SLOWEST_STEP_SECONDS = float(os.environ.get("SLOWEST_STEP_SECONDS", "0.05"))
LONGEST_SLEEP_SECONDS = float(os.environ.get("LONGEST_SLEEP_SECONDS", "3"))
KINDS = 10
"""Workflows whose numbers differ by this much do the same."""


def name_of(number: int) -> str:
    return f"m{number:05}"


@app.step
async def effect(what: str) -> str:
    """Leaves a token in the world; gives it."""
    await asyncio.sleep(random.uniform(0, SLOWEST_STEP_SECONDS))
    return _noticed()


@app.step
def plain_effect(what: str) -> str:
    """The same in a thread."""
    return _noticed()


@app.step
async def refuse(number: int) -> None:
    ledger.write(everstep.step_context().idempotency_key, "refused")
    raise ValueError(f"{number} is refused")


def _noticed() -> str:
    token = uuid4().hex
    ledger.write(everstep.step_context().idempotency_key, token)
    return token


@app.transaction
async def book(tx: everstep.Connection, number: int) -> int:
    """Leaves a row in a table without any key: two would be seen."""
    key = everstep.step_context().idempotency_key
    await tx.execute("INSERT INTO booking (key, number) VALUES (%s, %s)", [key, number])
    await asyncio.sleep(random.uniform(0, SLOWEST_STEP_SECONDS / 10))
    return number + 1


@app.transaction
def book_plainly(tx: everstep.PlainConnection, number: int) -> int:
    key = everstep.step_context().idempotency_key
    tx.execute("INSERT INTO booking (key, number) VALUES (%s, %s)", [key, number])
    return number + 1


@app.workflow
async def child(number: int) -> list[Any]:
    token = await effect("child")
    return [token, await book(number), number * number]


@app.workflow(queue=narrow)
async def narrow_child(number: int) -> list[Any]:
    return [await effect("narrow"), number + 100]


@app.workflow
def plain_child(number: int) -> list[Any]:
    return [plain_effect("plain"), book_plainly(number), -number]


@app.workflow
async def failing_child(number: int) -> None:
    await refuse(number)


@app.workflow
async def mixed(number: int) -> dict[str, Any]:
    """A step, a transaction, an event, a talk with the partner, something of its own kind, and a step."""
    partner = name_of(number ^ 1)
    said: dict[str, Any] = {"first": await effect("first"), "booked": await book(number)}
    await everstep.set_event("half", {"of": number})
    said["heard"] = await _talk(number, partner)
    said["own"] = await OWN[number % KINDS](number)
    said["seen"] = await everstep.get_event(partner, "half")
    said["last"] = await effect("last")
    return said


async def _talk(number: int, partner: str) -> Any:
    """The even one asks, the odd one answers."""
    if number % 2:
        asked = await everstep.recv("talk")
        await everstep.send(partner, {"answer": asked["question"] + number}, "talk")
        return asked
    await everstep.send(partner, {"question": number}, "talk")
    return await everstep.recv("talk")


async def _sleep(number: int) -> Any:
    await everstep.sleep(0.3 + number % 7 / 7 * LONGEST_SLEEP_SECONDS)
    return "slept"


async def _inline_child(number: int) -> Any:
    return (await child(number))[1:]


async def _background_children(number: int) -> Any:
    started = [await everstep.start(narrow_child, number), await everstep.start(child, number)]
    return [(await one.result())[1:] for one in started]


async def _gathered(number: int) -> Any:
    steps = [effect(f"gathered {n}") for n in range(3)]
    tokens = await asyncio.gather(*steps, everstep.run(plain_effect, "gathered"))
    return len(set(tokens))


async def _from_outside(number: int) -> Any:
    return [await everstep.recv("outside"), await everstep.recv("outside")]


async def _plain_child(number: int) -> Any:
    return (await everstep.run(plain_child, number))[1:]


async def _failing_child(number: int) -> Any:
    try:
        await failing_child(number)
    except WorkflowError as error:
        return str(error).rpartition(": ")[2]


async def _failing_step(number: int) -> Any:
    try:
        await refuse(number)
    except StepError as error:
        return str(error).rpartition(": ")[2]


async def _stream(number: int) -> Any:
    for n in range(3):
        await everstep.write_stream("numbers", number + n)
    await everstep.close_stream("numbers")
    return "written"


async def _children_at_once(number: int) -> Any:
    results = await asyncio.gather(
        child(number), everstep.run(plain_child, number), everstep.sleep(0.2)
    )
    return [result[1:] for result in results[:2]]


OWN = [
    _sleep,
    _inline_child,
    _background_children,
    _gathered,
    _from_outside,
    _plain_child,
    _failing_child,
    _failing_step,
    _stream,
    _children_at_once,
]


def expected(number: int) -> dict[str, Any]:
    """What `mixed(number)` returns, without the tokens of its first and last step."""
    partner = number ^ 1
    question, answer = {"question": number & ~1}, {"answer": (number & ~1) + (number | 1)}
    a_child, a_plain_child = [number + 1, number * number], [number + 1, -number]
    own = [
        "slept",
        a_child,
        [[number + 100], a_child],
        4,
        messages_from_outside(number),
        a_plain_child,
        f"{number} is refused",
        f"{number} is refused",
        "written",
        [a_child, a_plain_child],
    ]
    return {
        "booked": number + 1,
        "heard": question if number % 2 else answer,
        "own": own[number % KINDS],
        "seen": {"of": partner},
    }


def messages_from_outside(number: int) -> list[Any]:
    """What those whose kind is 4 are sent, in this order."""
    return [{"first": number}, {"second": number}]


failpoints.install(os.environ)
