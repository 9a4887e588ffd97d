"""everstep's side: what workflows that wait cost, and how soon they run again.

`worker` is a process of its own, whose memory is looked at from here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta

import uvloop
from gauges import memory_kb, percentiles, tables_kb, wait_until_count

from everstep import App, Client, Settings, Worker, get_event, recv, set_event, sleep

app = App("bench")

WAITING = "SELECT sum(waiting) FROM everstep.v1_queues"
GO_ON_WAITING = timedelta(days=30)


@app.workflow
async def await_message(number: int) -> float:
    await recv("go")
    return time.time()


@app.workflow
async def await_nothing(number: int) -> None:
    await sleep(GO_ON_WAITING)


@app.workflow
async def publish(number: int) -> float:
    await recv("go")
    began = time.time()
    await set_event("go", number)
    return began


@app.workflow
async def await_event(number: int) -> float:
    await get_event("publisher", "go")
    return time.time()


async def parked(url: str, count: int, sends: int, worker: str) -> dict[str, float]:
    """Memory and rows of workflows in recv; then one message at a time, to an idle worker."""
    async with Client.connect(url) as client:
        warm = count // 5  # fills the worker's caches and pools
        await _park(client, url, await_message, warm, "warm")
        before = memory_kb(worker), tables_kb(url, "everstep")
        handles = await _park(client, url, await_message, count, "wait", already=warm)
        after = memory_kb(worker), tables_kb(url, "everstep")
        waits = []
        for number, handle in enumerate(handles[: sends + 3]):
            sent = time.time()
            await client.send(handle.id, None, "go")
            waits.append(await handle.result() - sent)
            await asyncio.sleep(0.02 + 0.013 * (number % 10))
    return {**_each(before, after, count), **percentiles(waits[3:])}


async def asleep(url: str, count: int, worker: str) -> dict[str, float]:
    """Memory, rows and pace of workflows that sleep for a month."""
    async with Client.connect(url) as client:
        warm = count // 50
        await _park(client, url, await_nothing, warm, "warm")
        before = memory_kb(worker), tables_kb(url, "everstep")
        began = time.perf_counter()
        await _park(client, url, await_nothing, count, "sleep", already=warm)
        seconds = time.perf_counter() - began
        after = memory_kb(worker), tables_kb(url, "everstep")
    return {**_each(before, after, count), "parked_per_s": count / seconds}


async def event(url: str, count: int, _worker: str) -> dict[str, float]:
    """From the line before the event is published to the first line after the wait, of the last to run."""
    async with Client.connect(url) as client:
        publisher = await client.start(publish, 0, id="publisher")
        handles = await _park(client, url, await_event, count, "wait", already=1)
        await client.send("publisher", None, "go")
        published = await publisher.result()
        times = await asyncio.gather(*(handle.result() for handle in handles))
    return {"seconds": max(times) - published}


async def _park(client, url, workflow, count, name, already=0):  # type: ignore[no-untyped-def]
    """Start so many, and return their handles once they all wait in the database."""
    handles = await client.start_many(workflow, [(n,) for n in range(count)], id=name)
    await asyncio.to_thread(wait_until_count, url, WAITING, count + already)
    return handles


def _each(before: tuple[float, float], after: tuple[float, float], count: int) -> dict[str, float]:
    worker, database = (now - then for now, then in zip(after, before, strict=True))
    return {"worker_kb": worker / count, "database_kb": database / count}


async def work(url: str) -> None:
    async with Worker(app, Settings(url=url, concurrency=400, port=0)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    verb, url, *rest = sys.argv[1:]
    if verb == "worker":
        uvloop.run(work(url))
        return
    *sizes, worker = rest
    verbs = {"parked": parked, "asleep": asleep, "event": event}
    print(json.dumps(uvloop.run(verbs[verb](url, *map(int, sizes), worker))))  # type: ignore[operator]


if __name__ == "__main__":
    main()
