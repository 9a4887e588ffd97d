"""The desk of the repair shop: programs that start workflows and wait for them, with an event loop and without."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from repairs import Bike, Bill, first_quote, letters, month_end, repair, sweep_up

import everstep
from everstep import Client, WorkflowInfo, sync


async def open_desk(url: str) -> list[Bill]:
    async with Client.connect(url) as client:
        handle = await client.start(repair, Bike(1, "ada", ["bell"]), id="bike-1", priority=0)
        assert_type(handle, everstep.Handle[Bill])
        one = assert_type(await handle.result(timeout=timedelta(minutes=1)), Bill)
        dear = await client.start(repair, Bike(2, "ben", ["gear", "frame", "saddle"]), id="bike-2")
        assert_type(await client.get_event(dear.id, "needs approval"), Any)
        assert_type(await client.send(dear.id, {"by": "ben", "limit": 5_000}, "approval"), bool)
        many = await client.start_many(first_quote, [(["bell", "gear"],), (["saddle"],)])
        assert_type(many, list[everstep.Handle[str]])
        for quoted in many:
            assert_type(await quoted.result(), str)
        assert_type(await client.handle(repair, "bike-1").result(), Bill)
        assert_type(await client.get("bike-1"), WorkflowInfo | None)
        return [one, await dear.result()]


def close_month(url: str, bikes: list[int]) -> dict[str, int]:
    with sync.Client.connect(url) as client:
        handle = client.start(month_end, bikes, queue=letters, timeout=timedelta(hours=1))
        assert_type(handle, sync.Handle[dict[str, int]])
        result = assert_type(handle.result(60), dict[str, int])
        assert_type(client.handle(sweep_up, "some tick"), sync.Handle[str])
        assert_type(client.get_event(handle.id, "letters"), Any)
        return result
