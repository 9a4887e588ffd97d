"""Workflows that sleep, and then do something."""

from __future__ import annotations

import os
from pathlib import Path

import everstep
from everstep import App
from support.ledger import Ledger

app = App("sleepers")
ledger = Ledger(Path(os.environ["LEDGER"]))


@app.step
async def awake() -> None:
    ledger.write(everstep.step_context().idempotency_key, "awake")


@app.workflow
async def sleeper(seconds: float) -> None:
    await everstep.sleep(seconds)
    await awake()
