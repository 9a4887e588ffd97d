"""Limited queues under load: claimers that claim, hold, finish and die, and what the database saw of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg

from everstep.store.connection import Connection, Link, connect
from everstep.store.models import CommitBatch, Ending
from everstep.store.queues import LimitedClaims
from everstep.store.runs import Runs
from support.database import Sql

NO_CURSORS: list[None] = [None] * 4

_LOG = """
CREATE TABLE start_log (
    n bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, id text, queue text, partition text, running bigint,
    of_partition bigint);
CREATE FUNCTION log_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO start_log (at, id, queue, partition, running, of_partition)
    SELECT everstep.clock(), NEW.id, NEW.queue, NEW.partition, count(*),
           count(*) FILTER (WHERE r.partition IS NOT DISTINCT FROM NEW.partition)
      FROM everstep.run r WHERE r.queue = NEW.queue AND r.state = 2;
    RETURN NULL;
END $$;
CREATE TRIGGER log_start AFTER INSERT OR UPDATE OF state ON everstep.run
    FOR EACH ROW WHEN (NEW.state = 2) EXECUTE FUNCTION log_start();
"""


def log_starts(sql: Sql) -> None:
    """From now on the table start_log says who was claimed when, and how many were running then."""
    for statement in _LOG.split(";\nCREATE"):
        sql(statement if statement.startswith("\nCREATE") else f"CREATE{statement}")


def put(
    sql: Sql,
    queue: str,
    count: int,
    *,
    partition: str | None = None,
    priority: int = 1,
    name: str = "work",
    age: float = 0.0,
    prefix: str | None = None,
) -> None:
    """Workflows that are ready since `age` seconds, started without a client."""
    sql(
        "WITH i AS (SELECT %(prefix)s || '-' || lpad(n::text, 6, '0') AS id FROM generate_series(1, %(count)s) n), "
        "w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
        "      SELECT id, %(name)s, %(queue)s, 1, '{}', everstep.clock() FROM i) "
        "INSERT INTO everstep.run (id, name, queue, partition, priority, ready_at) "
        "SELECT id, %(name)s, %(queue)s, %(partition)s, %(priority)s, "
        "       everstep.clock() - make_interval(secs => %(age)s) FROM i",
        {
            "prefix": prefix or f"{queue}-{partition}-{priority}",
            "count": count,
            "queue": queue,
            "partition": partition,
            "priority": priority,
            "name": name,
            "age": age,
        },
    )


def widest_burst(times: Sequence[datetime], rate: float) -> float:
    """The largest, over all windows of w seconds, of what began in them minus `rate * w`."""
    seconds = sorted(time.timestamp() for time in times)
    if not seconds:
        return 0.0
    least, widest = float("inf"), 0.0
    for n, second in enumerate(seconds):
        # A window that begins with the i-th and ends with the n-th holds n - i + 1.
        least = min(least, n - rate * second)
        widest = max(widest, n + 1 - rate * second - least)
    return widest


@dataclass
class Claimant:
    """A worker as the store knows one: registered, it claims and finishes, and can die without a word."""

    url: str
    queue: str
    link: Link = field(init=False)
    me: UUID = field(init=False)

    async def __aenter__(self) -> Self:
        self.link = Link(self.url, "claimant")
        await self.register()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.close()

    async def register(self) -> None:
        """As a new worker, whatever it held as another one."""
        self.me = uuid4()
        self._claims = LimitedClaims("everstep", self.me, "v1")
        self._runs = Runs("everstep", self.me, "v1")
        await self.link.call(self._insert)

    async def claim(self, limit: int, *, suspect: bool = False) -> Any:
        return await self.link.call(
            lambda c: self._claims.claim(
                c, self.queue, names=["work"], cursors=NO_CURSORS, limit=limit, suspect=suspect
            )
        )

    async def finish(self, owned: dict[str, int]) -> None:
        """Complete workflows of this claimant, by id and epoch."""
        batch = CommitBatch()
        for id_, epoch in owned.items():
            batch.d_id.append(id_)
            batch.d_epoch.append(epoch)
            batch.d_status.append(Ending.SUCCEEDED)
            batch.d_output.append(b"null")
            batch.d_error.append(None)
        await self.link.call(lambda c: self._runs.commit(c, batch, waiting=True))

    async def die(self) -> None:
        """What it holds stays with a dead worker until a sweep; a new worker takes its place."""
        dead = self.me
        await self.link.call(
            lambda c: c.execute("UPDATE everstep.worker SET state = 3 WHERE id = %s", [dead])
        )
        await self.register()

    async def _insert(self, connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
            "VALUES (%s, 'test', 'v1', 1, 100, now(), now() + interval '1 hour')",
            [self.me],
        )


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
    watched: Watched = field(default_factory=Watched)

    async def run(self, seconds: float) -> Watched:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            own = [
                await stack.enter_async_context(Claimant(self.url, self.queue))
                for _ in range(self.claimants)
            ]
            tasks = [group.create_task(self._work(one, group)) for one in own]
            tasks += [group.create_task(self._sweep()), group.create_task(self._watch())]
            if self.kill_every is not None:
                tasks.append(group.create_task(self._kill(own)))
            await asyncio.sleep(seconds)
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
                await link.call(runs.rescue)
                await asyncio.sleep(0.05)
        finally:
            await link.close()

    async def _watch(self) -> None:
        async with await connect(self.url, "watcher") as connection:
            while True:
                rows = await connection.execute(
                    "SELECT count(*) AS n FROM everstep.run WHERE queue = %s AND state = 2",
                    [self.queue],
                )
                row = await rows.fetchone()
                assert row is not None
                self.watched.samples.append(row.n)
                self.watched.most = max(self.watched.most, row.n)
                await asyncio.sleep(0.001)


def rewrite_function(sql: Sql, rewrite: Callable[[str], str], name: str = "claim_limited") -> None:
    """Put a changed function in the place of one of the engine's: for the mutants."""
    text = sql.one("SELECT pg_get_functiondef(('everstep.' || %s)::regproc)", [name])
    changed = rewrite(text)
    assert changed != text, "the mutant is the original"
    sql(changed)
