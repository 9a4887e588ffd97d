"""A step that outlives its worker: in the middle of it the workflow moves to another one, and is replayed there."""

from __future__ import annotations

import asyncio
from typing import Any

from everstep import App


class Hold:
    """A step that stays in the first run, and answers in the second."""

    def __init__(self, app: App, name: str = "hold") -> None:
        self.begun = asyncio.Event()
        self.free = asyncio.Event()

        @app.step(name=name)
        async def hold() -> str:
            self.begun.set()
            await self.free.wait()
            return "held"

        self.step = hold

    async def moved(self, first: Any, worker: Any) -> None:
        """The first worker leaves in the middle of the step, and another goes on."""
        await asyncio.wait_for(self.begun.wait(), 30)
        await first.stop()
        self.free.set()
        await worker()
