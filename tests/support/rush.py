"""A rush at a limited queue: claimants that claim, hold, finish and die, while others look how many run."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid4

import psycopg

from everstep.store.connection import Link, connect
from everstep.store.runs import Runs
from support.limits import Claimant
from support.protocol import rescue
from support.waiting import eventually

# Functions that are volatile see what was committed meanwhile: each look is a snapshot of its own.
_WATCH = """
CREATE OR REPLACE FUNCTION watch(of_queue text, looks int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    FOR look IN 1 .. looks LOOP
        RETURN QUERY SELECT count(*) FROM everstep.run WHERE queue = of_queue AND state = 2;
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$
"""
_LOOKS = "SELECT watch(%s, 50) AS n"


@dataclass
class Watched:
    """What was seen of a queue from outside while claimants worked."""

    samples: list[int] = field(default_factory=list)
    most: int = 0
    finished: int = 0
    kills: int = 0
    refused: int = 0
    """Claims that the unique index stopped: never, with the protocol as it is."""


@dataclass
class Rush:
    """So many claimants at one queue: each takes what it gets, holds it for a moment, and finishes it."""

    url: str
    queue: str
    hold: tuple[float, float]
    rng: random.Random
    kill_every: float | None = None
    claimants: int = 8
    watchers: int = 1
    watched: Watched = field(default_factory=Watched)

    async def run(
        self, seconds: float, samples: int = 0, kills: int = 0, refused: int = 0
    ) -> Watched:
        """For so long, and until it was looked at so often, so many have died, and so many were refused."""
        async with await connect(self.url, "rush") as connection:
            await connection.execute(_WATCH)
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            own = [
                await stack.enter_async_context(Claimant(self.url, self.queue))
                for _ in range(self.claimants)
            ]
            tasks = [group.create_task(self._work(one, group)) for one in own]
            tasks += [group.create_task(self._sweep())]
            tasks += [group.create_task(self._watch()) for _ in range(self.watchers)]
            if self.kill_every is not None:
                tasks.append(group.create_task(self._kill(own)))
            await asyncio.sleep(seconds)
            seen = self.watched
            await eventually(lambda: len(seen.samples) >= samples, within=300, pause=0.1)
            await eventually(lambda: seen.kills >= kills, within=300, pause=0.1)
            await eventually(lambda: seen.refused >= refused, within=60, pause=0.1)
            for task in tasks:
                task.cancel()
        return self.watched

    async def _work(self, claimant: Claimant, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                share = await claimant.claim(self.rng.randint(1, 20))
            except Exception as error:
                if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                    raise
                self.watched.refused += 1
                continue
            if share is not None and share.claimed:
                me = claimant.me
                for one in share.claimed:
                    group.create_task(self._hold(claimant, me, {one.id: one.epoch}))
            else:
                await asyncio.sleep(self.rng.uniform(0.002, 0.01))

    async def _hold(self, claimant: Claimant, me: UUID, owned: dict[str, int]) -> None:
        await asyncio.sleep(self.rng.uniform(*self.hold))
        if claimant.me == me:  # else it died meanwhile
            with suppress(asyncio.CancelledError):
                await claimant.finish(owned)
            self.watched.finished += 1

    async def _kill(self, claimants: list[Claimant]) -> None:
        assert self.kill_every is not None
        while True:
            await asyncio.sleep(self.kill_every)
            await self.rng.choice(claimants).die()
            self.watched.kills += 1

    async def _sweep(self) -> None:
        link = Link(self.url, "sweeper")
        runs = Runs("everstep", uuid4(), "v1")
        try:
            while True:
                await link.call(partial(rescue, runs))
                await asyncio.sleep(0.05)
        finally:
            await link.close()

    async def _watch(self) -> None:
        async with await connect(self.url, "watcher") as connection:
            while True:
                cursor = await connection.execute(_LOOKS, [self.queue])
                looks = [row.n for row in await cursor.fetchall()]
                self.watched.samples += looks
                self.watched.most = max(self.watched.most, *looks)
