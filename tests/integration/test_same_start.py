"""Many threads that start the same workflows at the same time."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from everstep import App, Client

THREADS = 64
KEYS = 1_000


def app_with_flow() -> App:
    app = App("test")

    @app.workflow(name="flow")
    async def flow(n: int) -> None: ...

    return app


async def start_each(url: str, seed: int, *, dedup: bool) -> dict[int, str]:
    """A client of a thread's own starts all of them, in an order of its own; the ids it was given."""
    workflow, numbers = app_with_flow().workflows["flow"], list(range(KEYS))
    random.Random(seed).shuffle(numbers)
    given: dict[int, str] = {}

    async def start(client: Client, n: int) -> None:
        if dedup:
            handle = await client.start(workflow, n, dedup=f"key-{n}", on_duplicate="return")
        else:
            handle = await client.start(workflow, n, id=f"w-{n}")
        given[n] = handle.id

    async with Client.connect(url, listen=False) as client:
        await asyncio.gather(*[start(client, n) for n in numbers])
    return given


@pytest.mark.slow
@pytest.mark.parametrize("dedup", [False, True], ids=["the same ids", "the same keys"])
def test_sixty_four_threads_that_start_the_same_thousand_get_the_same_thousand(
    dedup, database, sql, rng
):
    seeds = [rng.randrange(2**32) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        started = [
            threads.submit(asyncio.run, start_each(database, seed, dedup=dedup)) for seed in seeds
        ]
        given = [one.result() for one in started]
    assert sql.one("SELECT count(*) FROM everstep.workflow") == KEYS
    assert sql.one("SELECT count(*) FROM everstep.run") == KEYS
    assert all(one == given[0] for one in given)
    assert len(set(given[0].values())) == KEYS
