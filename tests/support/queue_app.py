"""The application of the fleets that meet a limited queue."""

from __future__ import annotations

import asyncio
import os

from everstep import App

app = App("queues")
limited = app.queue("limited", max_running=int(os.environ.get("LIMIT", "4")))


@app.step
async def rest(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.workflow(queue=limited)
async def hold(seconds: float) -> None:
    await rest(seconds)
