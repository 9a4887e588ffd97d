"""A workflow whose replay has to say what its first run said."""

from __future__ import annotations

import asyncio
from typing import Any

from support.hold import Hold


async def ended(task: asyncio.Task[Any]) -> str:
    """How a task ended."""
    try:
        return f"returned {await task}"
    except asyncio.CancelledError:
        return "cancelled"


async def twice(
    app: Any, client: Any, worker: Any, body: Any, *, between: Any = None, order: Any = list
) -> list[str]:
    """What a body says before a hold, which its replay has to say as well; `between` happens in the middle of that."""
    hold = Hold(app)
    runs: list[list[str]] = []

    @app.workflow(name="flow")
    async def flow() -> list[str]:
        said: list[str] = []
        runs.append(said)
        await body(said, hold)
        said.append(await hold.step())
        return said

    first = await worker(grace=0.0)
    handle = await client.start(flow)
    await asyncio.wait_for(hold.begun.wait(), 30)
    before = list(runs[-1])
    await first.stop()
    if between is not None:
        between()
    hold.free.set()
    await worker()
    last = await handle.result(30)
    assert order(last) == order([*before, "held"])
    return last[:-1]
