"""everstep's side of the benchmark: one worker process. Each verb measures one thing and prints it as JSON.

Uses only what everstep had from its first version on, so that earlier ones can be measured with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop
from gauges import percentiles

import everstep
from everstep import App, Client, Settings, Worker
from everstep.migrations.migrate import migrate

app = App("bench")


@app.step
async def add(number: int) -> int:
    return number + 1


@app.workflow
async def one_step(number: int) -> int:
    return await add(number)


@app.workflow
async def ten_steps(number: int) -> int:
    for _ in range(10):
        number = await add(number)
    return number


@app.workflow
async def begun_at(number: int) -> float:
    return time.time()


async def throughput(url: str, which: str, count: int) -> dict[str, float]:
    """From the first start to the last result, through a queue, with an idle worker waiting for it."""
    workflow = {"one": one_step, "ten": ten_steps}[which]
    async with Worker(app, _settings(url)), Client.connect(url) as client:
        warm = await client.start(one_step, 0)
        await warm.result()
        began = time.perf_counter()
        handles = await asyncio.gather(*(client.start(workflow, n) for n in range(count)))
        started = time.perf_counter()
        await asyncio.gather(*(handle.result() for handle in handles))
        ended = time.perf_counter()
    return {"workflows_per_s": count / (ended - began), "starts_per_s": count / (started - began)}


async def direct(url: str, count: int) -> dict[str, float]:
    """Start and result of one workflow at a time, in the worker's own process."""
    seconds = []
    async with Worker(app, _settings(url)) as worker:
        for number in range(count + 20):
            began = time.perf_counter()
            handle = await worker.client.start(one_step, number)
            await handle.result()
            seconds.append(time.perf_counter() - began)
    return percentiles(seconds[20:])


async def worker(url: str) -> dict[str, float]:
    """An idle worker for `latency`, until its standard input closes."""
    async with Worker(app, _settings(url)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return {}


async def latency(url: str, count: int, _worker: str) -> dict[str, float]:
    """From the call of start to the first line of the workflow, in another process on this machine."""
    waits = []
    async with Client.connect(url) as client:
        for number in range(count + 3):
            began = time.time()
            handle = await client.start(begun_at, number)
            waits.append(await handle.result() - began)
            # The next start must find an idle worker, whatever phase its polling is in.
            await asyncio.sleep(0.05 + 0.013 * (number % 10))
    return percentiles(waits[3:])


def prepare(url: str) -> dict[str, str]:
    migrate(url, "everstep")
    return {"code": everstep.__file__}


def _settings(url: str) -> Settings:
    return Settings(url=url, concurrency=400, port=0)


def main() -> None:
    verb, url, *rest = sys.argv[1:]
    figures: object
    match verb:
        case "prepare":
            figures = prepare(url)
        case "throughput":
            figures = uvloop.run(throughput(url, rest[0], int(rest[1])))
        case "direct":
            figures = uvloop.run(direct(url, int(rest[0])))
        case "worker":
            figures = uvloop.run(worker(url))
        case "latency":
            figures = uvloop.run(latency(url, int(rest[0]), rest[1]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
