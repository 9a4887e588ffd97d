"""DBOS's side: what workflows that wait cost. Async workflows, which hold no thread while they wait."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from dbos import DBOS, DBOSClient  # type: ignore[import-not-found,unused-ignore]
from dbos_side import launch
from gauges import memory_kb, percentiles, tables_kb, wait_until_count

# Each recv and get_event records the time-out of its wait first.
WAITING = "SELECT count(*) FROM dbos.operation_outputs"
A_MONTH = 30 * 86_400.0


@DBOS.workflow()
async def await_message(number: int) -> float:
    await DBOS.recv_async("go", timeout_seconds=A_MONTH)
    return time.time()


@DBOS.workflow()
async def publish(number: int) -> float:
    await DBOS.recv_async("go", timeout_seconds=A_MONTH)
    began = time.time()
    await DBOS.set_event_async("go", number)
    return began


@DBOS.workflow()
async def await_event(number: int) -> float:
    await DBOS.get_event_async("publisher", "go", timeout_seconds=A_MONTH)
    return time.time()


def parked(url: str, count: int, sends: int, worker: str) -> dict[str, float]:
    client = DBOSClient(system_database_url=url)
    _park(client, url, "await_message", 200)
    before = memory_kb(worker), tables_kb(url, "dbos")
    handles = _park(client, url, "await_message", count, already=200)
    after = memory_kb(worker), tables_kb(url, "dbos")
    waits = []
    for number, handle in enumerate(handles[: sends + 3]):
        sent = time.time()
        client.send(handle.workflow_id, None, "go")
        waits.append(handle.get_result(polling_interval_sec=0.05) - sent)
        time.sleep(0.02 + 0.013 * (number % 10))
    return {
        "worker_kb": (after[0] - before[0]) / count,
        "database_kb": (after[1] - before[1]) / count,
        **percentiles(waits[3:]),
    }


def event(url: str, count: int, _worker: str) -> dict[str, float]:
    client = DBOSClient(system_database_url=url)
    publisher = _enqueue(client, "publish", 0, workflow_id="publisher")
    handles = _park(client, url, "await_event", count, already=1)
    client.send("publisher", None, "go")
    published = publisher.get_result(polling_interval_sec=0.05)
    times = [handle.get_result(polling_interval_sec=0.05) for handle in handles]
    return {"seconds": max(times) - published}


def _park(client: Any, url: str, workflow: str, count: int, already: int = 0) -> list[Any]:
    handles = [_enqueue(client, workflow, number) for number in range(count)]
    wait_until_count(url, WAITING, count + already)
    return handles


def _enqueue(client: Any, workflow: str, number: int, **more: str) -> Any:
    options = {"workflow_name": workflow, "queue_name": "bench", "app_version": "1", **more}
    return client.enqueue(options, number)


def work(url: str) -> None:
    launch(url)
    print("ready", flush=True)
    sys.stdin.read()
    DBOS.destroy()


def main() -> None:
    verb, url, *rest = sys.argv[1:]
    if verb == "worker":
        work(url)
        return
    *sizes, worker = rest
    verbs = {"parked": parked, "event": event}
    print(json.dumps(verbs[verb](url, *map(int, sizes), worker)), flush=True)  # type: ignore[operator]


if __name__ == "__main__":
    main()
