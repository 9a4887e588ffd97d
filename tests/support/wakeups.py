"""A workflow that is about to wait, and what it waits for: both happen at once, thousands of times.

Whoever makes a wish come true does it in one statement and wakes in the next, as the engine does. Now and then it
dies in between: then the next sweep has to find whom it left asleep.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from everstep.store.connection import Connection, connect
from everstep.store.messages import Messages
from everstep.store.models import CheckpointKind, CommitBatch, Seen
from everstep.store.runs import Runs
from everstep.store.workflows import Workflows
from support.operations import checkpoint, ending
from support.races import MAX_OFFSET_SECONDS, Rewrite, rewrite_statements

CHUNK = 250
"""Trials that are made and looked at together."""

FAITHLESS = 10
"""One in so many senders dies before it wakes anybody."""


@dataclass
class Sleepers:
    """What the trials came to: senders who found it waiting, parks that were refused, and what was lost."""

    trials: int = 0
    woken: int = 0
    refused: int = 0
    forgotten: int = 0
    lost: int = 0


class Speaker:
    """A session that speaks for one worker."""

    def __init__(self, session: Connection, me: UUID, rewrite: Rewrite) -> None:
        self.session = session
        self.runs = Runs("everstep", me, "v1")
        self.messages = Messages("everstep")
        self.workflows = Workflows("everstep")
        rewrite_statements(self.runs, rewrite)
        self.messages._sql = rewrite(dict(self.messages._sql))

    async def commit(self, batch: CommitBatch) -> list[str]:
        """Commit, waiting for a lock if need be. Returns whom to wake."""
        reply = await self.runs.commit(self.session, batch)
        if reply.leftovers:
            reply = await self.runs.commit(self.session, batch, waiting=True)
        return reply.wakes

    async def park(self, id_: str, key: str, seen: Seen | None) -> None:
        if seen is None or seen.finished or seen.body is not None:
            return  # it is there already, or the workflow is gone
        batch = CommitBatch()
        batch.p_id.append(id_)
        batch.p_epoch.append(1)
        batch.p_wake_at.append(None)
        batch.p_key.append(key)
        batch.p_signals.append(seen.signals)
        batch.p_generation.append(0)
        await self.commit(batch)


Act = Callable[[Speaker, str], Awaitable[Any]]


@dataclass(frozen=True)
class Race:
    """Who waits and who wakes; `fulfil` returns whom to wake. `asleep`: runs that wait without a reason."""

    wait: Act
    fulfil: Act
    asleep: str
    state: int = 2


async def _listen(one: Speaker, id_: str) -> None:
    (seen,) = await one.messages.peek_messages(one.session, [(id_, "t")], [])
    await one.park(id_, "message:t", seen)


async def _send(two: Speaker, id_: str) -> list[str]:
    await two.messages.send(two.session, [two.messages.letter(id_, "t", b"1", None)])
    return [id_]


async def _await_child(one: Speaker, id_: str) -> None:
    await one.messages.watch(one.session, [(f"{id_}/c", id_)])
    (seen,) = await one.messages.peek_outcomes(one.session, [(id_, f"{id_}/c")])
    await one.park(id_, f"workflow:{id_}/c", seen)


async def _complete_child(two: Speaker, id_: str) -> list[str]:
    batch = CommitBatch()
    ending(f"{id_}/c")(batch, 1, None)
    return await two.commit(batch)


async def _await_event(one: Speaker, id_: str) -> None:
    await one.messages.watch(one.session, [(f"{id_}/c", id_)])
    (seen,) = await one.messages.peek_events(one.session, [(id_, f"{id_}/c", "k")])
    await one.park(id_, f"event:{id_}/c:k", seen)


async def _publish(two: Speaker, id_: str) -> list[str]:
    batch = CommitBatch()
    checkpoint(CheckpointKind.PUBLISH, "k", id_=f"{id_}/c")(batch, 1, None)
    return await two.commit(batch)


async def _wake_due(one: Speaker, _: str) -> None:
    await one.runs.wake_due(one.session)


async def _sleep(one: Speaker, id_: str) -> None:
    (seen,) = await one.messages.peek_messages(one.session, [(id_, "t")], [])
    await one.park(id_, "message:t", seen)


async def _cancel(two: Speaker, id_: str) -> list[str]:
    return (await two.workflows.cancel(two.session, [id_], b"{}")).wakes


_HAS_MAIL = "EXISTS (SELECT FROM everstep.message m WHERE m.workflow_id = r.id)"
RACES = {
    "send and recv": Race(_listen, _send, _HAS_MAIL),
    "the end of a child and its parent's wait": Race(
        _await_child,
        _complete_child,
        "EXISTS (SELECT FROM everstep.workflow w WHERE w.id = r.id || '/c' AND w.status <> 0)",
    ),
    "set_event and get_event": Race(
        _await_event,
        _publish,
        "EXISTS (SELECT FROM everstep.event e WHERE e.workflow_id = r.id || '/c')",
    ),
    "a timer and send": Race(_wake_due, _send, _HAS_MAIL, state=3),
    "cancel and park": Race(_sleep, _cancel, "r.cancel"),
}


async def race_wake_ups(
    url: str, race: Race, trials: int, rng: random.Random, rewrite: Rewrite = lambda sql: sql
) -> Sleepers:
    """Let both sides of a race meet `trials` times, each time at another offset; fewer if a wake-up is lost."""
    me, tally = uuid4(), Sleepers()
    async with AsyncExitStack() as stack:
        one, two = [
            Speaker(await stack.enter_async_context(await connect(url, name)), me, rewrite)
            for name in ("waits", "fulfils")
        ]
        await one.session.execute(
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
            "VALUES (%s, 'race', 'v1', 1, 1, now(), now() + interval '1 hour')",
            [me],
        )
        while tally.trials < trials and not tally.lost:
            ids = [f"t{tally.trials + n:05}" for n in range(min(CHUNK, trials - tally.trials))]
            await _make(one.session, ids, race.state, me)
            for id_ in ids:
                await _trial(race, one, two, id_, rng)
            await _look(one, race, ids, tally)
    return tally


async def _trial(race: Race, one: Speaker, two: Speaker, id_: str, rng: random.Random) -> None:
    lead = rng.uniform(-MAX_OFFSET_SECONDS, MAX_OFFSET_SECONDS)

    async def waits() -> None:
        await asyncio.sleep(max(0.0, -lead))
        await race.wait(one, id_)

    async def fulfils() -> None:
        await asyncio.sleep(max(0.0, lead))
        wakes = await race.fulfil(two, id_)
        if wakes and not _faithless(id_):
            await two.messages.wake(two.session, wakes)

    await asyncio.gather(waits(), fulfils())


def _faithless(id_: str) -> bool:
    return int(id_[1:]) % FAITHLESS == 0


async def _look(one: Speaker, race: Race, ids: list[str], tally: Sleepers) -> None:
    """Nobody sleeps whom somebody woke; and after a sweep nobody sleeps at all who has no reason to."""
    asleep = await _asleep(one.session, race)
    tally.trials += len(ids)
    tally.forgotten += sum(_faithless(id_) for id_ in asleep)
    tally.lost += sum(not _faithless(id_) for id_ in asleep)
    cursor = await one.session.execute(
        "SELECT count(*) FILTER (WHERE state = 1) AS woken, count(*) FILTER (WHERE state = 2) AS refused "
        "FROM everstep.run WHERE id = ANY (%s)",
        [ids],
    )
    woken, refused = await cursor.fetchone() or (0, 0)
    tally.woken += woken
    tally.refused += refused
    await one.messages.wake_forgotten(one.session)
    tally.lost += len(await _asleep(one.session, race))
    await one.session.execute("DELETE FROM everstep.run")


async def _asleep(session: Connection, race: Race) -> list[str]:
    cursor = await session.execute(
        f"SELECT r.id FROM everstep.run r WHERE r.state = 3 AND {race.asleep}".encode()
    )
    return [row.id for row in await cursor.fetchall()]


async def _make(session: Connection, ids: list[str], state: int, me: UUID) -> None:
    """Workflows about to wait (or waiting for a timer that is due), each with a child that runs."""
    await session.execute(
        "WITH i AS (SELECT id, %s::int AS state FROM unnest(%s::text[]) AS id "
        "           UNION ALL SELECT id || '/c', 2 FROM unnest(%s::text[]) AS id), "
        "w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
        "      SELECT id, 'race', 'default', 1, '{}', now() FROM i) "
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at, worker_id, epoch, wake_at, wait_key) "
        "SELECT id, 'race', 'v1', 'default', state, now(), CASE WHEN state = 2 THEN %s::uuid END, 1, "
        "       CASE WHEN state = 3 THEN now() END, CASE WHEN state = 3 THEN 'message:t' END FROM i",
        [state, ids, ids, me],
    )
