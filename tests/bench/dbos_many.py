"""DBOS's side: limits, schedules, fan-out and starts by the thousand, each by its own recommended calls."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS, DBOSClient  # type: ignore[import-not-found,unused-ignore]
from dbos_side import add, launch, one_step, wait_for_all


@DBOS.workflow()
def fan_out_to(count: int) -> int:
    handles = [DBOS.enqueue_workflow("bench", one_step, number) for number in range(count)]
    return sum(handle.get_result(polling_interval_sec=0.05) for handle in handles)


@DBOS.workflow()
def tick_step(tick: datetime, context: object) -> int:
    return add(tick.minute)


def limited(url: str, limit: int, count: int) -> dict[str, float]:
    launch(url)
    DBOS.register_queue("limited", global_concurrency=limit)
    DBOS.enqueue_workflow("limited", one_step, 0).get_result()
    began = time.perf_counter()
    wait_for_all([DBOS.enqueue_workflow("limited", one_step, n) for n in range(count)])
    return {"workflows_per_s": count / (time.perf_counter() - began)}


def ticks(url: str, count: int) -> dict[str, float]:
    launch(url)
    DBOS.enqueue_workflow("bench", one_step, 0).get_result()
    DBOS.create_schedule(
        schedule_name="minutely", workflow_fn=tick_step, schedule="* * * * *", queue_name="bench"
    )
    end = datetime(2026, 1, 31, tzinfo=UTC)
    began = time.perf_counter()
    # Its window excludes both ends.
    start = end - timedelta(minutes=count, seconds=1)
    handles = DBOS.backfill_schedule("minutely", start, end)
    assert len(handles) == count
    wait_for_all(handles)
    return {"ticks_per_s": count / (time.perf_counter() - began)}


def fan_out(url: str, count: int) -> dict[str, float]:
    launch(url)
    DBOS.enqueue_workflow("bench", fan_out_to, 10).get_result()
    began = time.perf_counter()
    parent = DBOS.enqueue_workflow("bench", fan_out_to, count)
    assert parent.get_result(polling_interval_sec=0.05) == count * (count + 1) // 2
    return {"children_per_s": count / (time.perf_counter() - began)}


def start_many(url: str, count: int) -> dict[str, float]:
    """One after the other: there is no call for many."""
    client = DBOSClient(system_database_url=url)
    options = {"workflow_name": "one_step", "queue_name": "bench", "app_version": "1"}
    client.enqueue(options, 0)
    began = time.perf_counter()
    for number in range(count):
        client.enqueue(options, number)
    return {"starts_per_s": count / (time.perf_counter() - began)}


def main() -> None:
    verb, url, *sizes = sys.argv[1:]
    verbs: dict[str, Any] = {
        "limited": limited,
        "ticks": ticks,
        "fan_out": fan_out,
        "start_many": start_many,
    }
    print(json.dumps(verbs[verb](url, *map(int, sizes))), flush=True)
    if verb != "start_many":
        DBOS.destroy()


if __name__ == "__main__":
    main()
