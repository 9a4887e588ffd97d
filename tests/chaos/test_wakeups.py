"""No wake-up is lost between looking and parking, whoever wakes, and none for long if the waker dies."""

from __future__ import annotations

import asyncio
import random
from dataclasses import astuple

import pytest
from support.database import fresh_database
from support.server import Server
from support.wakeups import RACES, Sleepers, race_wake_ups

TRIALS = 3_000
PAIRS = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", RACES)
async def test_no_wake_up_is_lost(postgres: Server, rng: random.Random, name: str):
    tally = await races(postgres, rng, name, TRIALS)
    print(f"{name}: {tally}")
    assert tally.lost == 0
    assert tally.trials == TRIALS
    # The race was real: it came out both ways.
    if name == "a timer and send":
        assert tally.woken == TRIALS
    elif name == "cancel and park":
        assert TRIALS / 20 < tally.refused < TRIALS * 19 / 20
    else:
        assert tally.woken > TRIALS / 20
        assert tally.refused > TRIALS / 20
        assert tally.forgotten > 0


@pytest.mark.no_fsck  # the trials leave workflows without runs behind
@pytest.mark.parametrize("name", RACES)
async def test_a_few_wake_ups_are_not_lost(database: str, rng: random.Random, name: str):
    assert (await race_wake_ups(database, RACES[name], 60, rng)).lost == 0


async def races(postgres: Server, rng: random.Random, name: str, trials: int) -> Sleepers:
    """Several pairs of sessions, each in a database of its own."""

    async def pair(seed: int) -> Sleepers:
        with fresh_database(postgres) as database:
            url = postgres.url(database)
            return await race_wake_ups(url, RACES[name], trials // PAIRS, random.Random(seed))

    tallies = await asyncio.gather(*[pair(rng.randrange(2**32)) for _ in range(PAIRS)])
    return Sleepers(*[sum(values) for values in zip(*map(astuple, tallies), strict=True)])
