"""A worker that was frozen wakes up and commits while its workflows are being rescued."""

from __future__ import annotations

import asyncio
import random
import re

from support.database import fresh_database
from support.races import Tally, race_late_checkpoints
from support.server import Server

TRIALS = 3_000
PAIRS = 3


async def test_no_late_checkpoint_gets_past_the_rescue(postgres, rng):
    tally = await races(postgres, rng, TRIALS)
    assert tally.late == []
    assert tally.trials == TRIALS
    # The race was real: often the zombie was first, often it was too late.
    assert tally.accepted > TRIALS / 20
    assert tally.refused > TRIALS / 20


async def test_the_race_finds_a_commit_that_checks_the_fence_without_locking_it(postgres, rng):
    tally = await races(postgres, rng, TRIALS, without_the_lock)
    print(f"caught after {tally.trials} trials")
    assert tally.late


def without_the_lock(sql: dict[str, bytes]) -> dict[str, bytes]:
    changed, times = re.subn(rb"FOR NO KEY UPDATE( OF \w+)?( SKIP LOCKED)?", b"", sql["commit"])
    assert times == 1
    return {**sql, "commit": changed}


async def races(
    postgres: Server, rng: random.Random, trials: int, rewrite=lambda sql: sql
) -> Tally:
    """Several pairs of sessions, each in a database of its own."""

    async def pair(seed: int) -> Tally:
        with fresh_database(postgres) as name:
            return await race_late_checkpoints(
                postgres.url(name), trials // PAIRS, random.Random(seed), rewrite
            )

    tallies = await asyncio.gather(*[pair(rng.randrange(2**32)) for _ in range(PAIRS)])
    return Tally(
        trials=sum(t.trials for t in tallies),
        refused=sum(t.refused for t in tallies),
        accepted=sum(t.accepted for t in tallies),
        late=[id_ for t in tallies for id_ in t.late],
    )
