"""Workflows that sleep, and then do something."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import everstep
from everstep import App
from support.ledger import Ledger

app = App("sleepers")
ledger = Ledger(Path(os.environ["LEDGER"]))


AWAKE_SECONDS = float(os.environ.get("AWAKE_SECONDS", "0"))


@app.step
async def awake() -> None:
    ledger.write(everstep.step_context().idempotency_key, "awake")
    await asyncio.sleep(AWAKE_SECONDS)


@app.workflow
async def sleeper(seconds: float) -> None:
    await everstep.sleep(seconds)
    await awake()
