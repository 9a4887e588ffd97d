"""DBOS's side of the benchmark, from its released package: the same workloads, its own recommended calls."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import dbos
from dbos import DBOS, DBOSClient, DBOSConfig  # type: ignore[import-not-found,unused-ignore]
from gauges import percentiles


@DBOS.step()
def add(number: int) -> int:
    return number + 1


@DBOS.workflow()
def one_step(number: int) -> int:
    return add(number)


@DBOS.workflow()
def ten_steps(number: int) -> int:
    for _ in range(10):
        number = add(number)
    return number


@DBOS.workflow()
def begun_at(number: int) -> float:
    return time.time()


def launch(url: str, threads: int = 16) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "max_executor_threads": threads,
        "enable_otlp": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue("bench")


def throughput(url: str, which: str, count: int) -> dict[str, float]:
    """From the first enqueue to the last result."""
    workflow = {"one": one_step, "ten": ten_steps}[which]
    launch(url)
    DBOS.enqueue_workflow("bench", one_step, 0).get_result()
    began = time.perf_counter()
    handles = [DBOS.enqueue_workflow("bench", workflow, n) for n in range(count)]
    started = time.perf_counter()
    wait_for_all(handles)
    ended = time.perf_counter()
    return {"workflows_per_s": count / (ended - began), "starts_per_s": count / (started - began)}


def wait_for_all(handles: list[Any]) -> None:
    # In reverse, so that the one-second polls of get_result are not paid for each workflow.
    for handle in reversed(handles):
        handle.get_result(polling_interval_sec=0.05)


def direct(url: str, count: int) -> dict[str, float]:
    launch(url)
    seconds = []
    for number in range(count + 20):
        began = time.perf_counter()
        one_step(number)
        seconds.append(time.perf_counter() - began)
    return percentiles(seconds[20:])


def worker(url: str) -> dict[str, float]:
    launch(url)
    print("ready", flush=True)
    sys.stdin.read()
    return {}


def latency(url: str, count: int, _worker: str) -> dict[str, float]:
    client = DBOSClient(system_database_url=url)
    waits = []
    for number in range(count):
        began = time.time()
        options = {"workflow_name": "begun_at", "queue_name": "bench", "app_version": "1"}
        handle: Any = client.enqueue(options, number)
        waits.append(handle.get_result(polling_interval_sec=0.05) - began)
        time.sleep(0.05 + 0.013 * (number % 10))
    return percentiles(waits)


def prepare(url: str) -> dict[str, str]:
    launch(url)
    return {"code": dbos.__file__}


def main() -> None:
    verb, url, *rest = sys.argv[1:]
    figures: object
    match verb:
        case "prepare":
            figures = prepare(url)
        case "throughput":
            figures = throughput(url, rest[0], int(rest[1]))
        case "direct":
            figures = direct(url, int(rest[0]))
        case "worker":
            figures = worker(url)
        case "latency":
            figures = latency(url, int(rest[0]), rest[1])
    print(json.dumps(figures), flush=True)
    if verb != "latency":
        DBOS.destroy()


if __name__ == "__main__":
    main()
