"""The application that the fleets run. Told by its environment what to do to itself (tests only)."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from uuid import uuid4

import everstep
from everstep import App
from support import failpoints
from support.ledger import Ledger

app = App("fleet")
ledger = Ledger(Path(os.environ["LEDGER"]))
SLOWEST_STEP_SECONDS = float(os.environ.get("SLOWEST_STEP_SECONDS", "0.5"))


@app.step
async def effect(number: int) -> str:
    """Takes a while, then does something the world notices; gives the token it left there."""
    began, token = time.time(), uuid4().hex
    await asyncio.sleep(random.uniform(0, SLOWEST_STEP_SECONDS))
    ledger.write(everstep.step_context().idempotency_key, token, began)
    return token


@app.workflow
async def three_steps(number: int) -> list[str]:
    return [await effect(number), await effect(number), await effect(number)]


@app.workflow
async def endless(left: int, tokens: list[str]) -> list[str]:
    """One effect in each generation; what it left in the world is handed on."""
    tokens = [*tokens, await effect(left)]
    if left > 1:
        everstep.continue_as_new(left - 1, tokens)
    return tokens


@app.step
async def poison() -> None:
    ledger.write(everstep.step_context().idempotency_key, "poison")
    os.abort()


@app.workflow
async def kills_its_worker() -> None:
    await poison()


failpoints.install(os.environ)
