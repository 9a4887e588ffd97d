"""Asking a worker's port, and reading what it exposes."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from everstep import Worker

Series = dict[tuple[str, ...], float]


async def get(worker: Worker, path: str) -> tuple[int, str]:
    """Status and body of one of the worker's pages."""
    return await asyncio.to_thread(get_now, worker, path)


def get_now(worker: Worker, path: str) -> tuple[int, str]:
    """The same from a thread, while the event loop may stand still."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def scrape(worker: Worker) -> dict[str, Series]:
    """Every sample of /metrics: by name, then by the values of its labels in the order of their names."""
    status, text = await get(worker, "/metrics")
    assert status == 200
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


async def sample_now(worker: Worker) -> dict[str, Series]:
    """Let the worker's sampler do a round, and scrape it."""
    assert worker.tenure is not None
    await worker.tenure.sampler.run_once()
    return await scrape(worker)
