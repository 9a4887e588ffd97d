"""everstep's side: limits, schedules, fan-out and starts by the thousand. One process with one worker."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime, timedelta

import uvloop

from everstep import App, CatchUp, Client, Settings, Worker

app = App("bench")


@app.step
async def add(number: int) -> int:
    return number + 1


@app.workflow
async def one_step(number: int) -> int:
    return await add(number)


@app.workflow
async def fan_out_to(count: int) -> int:
    return sum(await asyncio.gather(*(one_step(number) for number in range(count))))


@app.schedule("* * * * *", name="minutely", catch_up=CatchUp.SKIP)
async def tick_step(tick: datetime) -> int:
    return await add(tick.minute)


async def limited(url: str, limit: int, count: int) -> dict[str, float]:
    """From the first start on a limited queue to the last result."""
    queue = app.queue("limited", max_running=limit)
    async with _worker(url), Client.connect(url) as client:
        await (await client.start(one_step, 0, queue=queue)).result()
        began = time.perf_counter()
        handles = await client.start_many(one_step, [(n,) for n in range(count)], queue=queue)
        await asyncio.gather(*(handle.result() for handle in handles))
        return {"workflows_per_s": count / (time.perf_counter() - began)}


async def ticks(url: str, count: int) -> dict[str, float]:
    """From the call of backfill to the last result of its workflows."""
    async with _worker(url), Client.connect(url) as client:
        await (await client.start(one_step, 0)).result()
        end = datetime(2026, 1, 31, tzinfo=UTC)
        began = time.perf_counter()
        done = await client.schedules.backfill("minutely", end - timedelta(minutes=count), end)
        assert len(done.started) == count
        handles = [client.handle(tick_step, id_) for id_ in done.started]
        await asyncio.gather(*(handle.result() for handle in handles))
        return {"ticks_per_s": count / (time.perf_counter() - began)}


async def fan_out(url: str, count: int) -> dict[str, float]:
    """From the start of the parent to its result."""
    async with _worker(url), Client.connect(url) as client:
        await (await client.start(fan_out_to, 10)).result()
        began = time.perf_counter()
        parent = await client.start(fan_out_to, count)
        assert await parent.result() == count * (count + 1) // 2
        return {"children_per_s": count / (time.perf_counter() - began)}


async def start_many(url: str, count: int) -> dict[str, float]:
    """One call, without a worker."""
    async with Client.connect(url) as client:
        await client.start(one_step, 0)
        began = time.perf_counter()
        await client.start_many(one_step, [(n,) for n in range(count)])
        return {"starts_per_s": count / (time.perf_counter() - began)}


def _worker(url: str) -> Worker:
    return Worker(app, Settings(url=url, concurrency=400, port=0))


def main() -> None:
    verb, url, *sizes = sys.argv[1:]
    verbs = {"limited": limited, "ticks": ticks, "fan_out": fan_out, "start_many": start_many}
    print(json.dumps(uvloop.run(verbs[verb](url, *map(int, sizes)))))  # type: ignore[operator]


if __name__ == "__main__":
    main()
