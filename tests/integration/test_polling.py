"""A client that nobody hints to (a pooler, listen=False) polls: slowly for what lasts, quickly for what is new."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.waiting import eventually

import everstep
from everstep import App, Client
from everstep.client import outcomes


async def test_a_long_wait_does_not_slow_down_the_next_one(
    app: App, database: str, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose waits have become rare asks soon about a workflow that it has just begun to wait for."""

    @app.workflow
    async def long() -> None:
        await everstep.recv("never")

    @app.workflow
    async def quick() -> None:
        await everstep.sleep(0.05)

    await worker()
    monkeypatch.setattr(outcomes, "POLL_SECONDS", (0.02, 600.0))
    async with Client.connect(database, listen=False) as client:
        first = await client.start(long)
        lasting = asyncio.ensure_future(first.result())
        await eventually(lambda: client.outcomes._waiters)
        client.outcomes._pause = 400.0
        # Now its next look is minutes away, if nobody hurries it.
        await eventually(lambda: client.outcomes._pause > 400.0 and client.outcomes._hurry._waiters)
        await (await client.start(quick)).result(30)
        lasting.cancel()
