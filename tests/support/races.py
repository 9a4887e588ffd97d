"""Two real sessions racing: a frozen worker's late commit against the rescue and the next owner's load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

from everstep.codec import JSON
from everstep.store.connection import Connection, connect
from everstep.store.models import CheckpointKind, CommitBatch, Lane
from everstep.store.runs import Runs

T = TypeVar("T")
Rewrite = Callable[[dict[str, bytes]], dict[str, bytes]]

ROWS = 2
"""Workflows of one commit: a group, as a busy worker sends them."""

PAYLOADS = (2, 20_000, 200_000)
"""Sizes of the last recorded value; a large one keeps the statement under way for longer."""

MAX_OFFSET_SECONDS = 0.002


@dataclass
class Tally:
    """What the trials came to."""

    trials: int = 0
    refused: int = 0
    accepted: int = 0
    late: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sides:
    """The frozen worker, who owns the workflows at epoch 1, and the one that takes them over."""

    zombie: Runs
    zombie_session: Connection
    heir: Runs
    heir_session: Connection
    dead: UUID


async def race_late_checkpoints(
    url: str, trials: int, rng: random.Random, rewrite: Rewrite = lambda sql: sql
) -> Tally:
    """Let a late commit and a rescue meet `trials` times, each time at another offset; fewer if one is late.

    A late write is a checkpoint of the old epoch that the new owner did not see when it loaded the log.
    """
    tally = Tally()
    async with await connect(url, "zombie") as one, await connect(url, "heir") as two:
        sides = await _sides(one, two, rewrite)
        for trial in range(trials):
            await _trial(sides, trial, rng, tally)
            if tally.late:
                break
    return tally


async def _sides(one: Connection, two: Connection, rewrite: Rewrite) -> Sides:
    dead, heir = uuid4(), uuid4()
    for worker, state in ((dead, 3), (heir, 1)):
        await one.execute(
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
            "VALUES (%s, 'race', 'v1', %s, 1, now(), now() + interval '1 hour')",
            [worker, state],
        )
    await one.execute("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    sides = Sides(Runs("everstep", dead, "v1"), one, Runs("everstep", heir, "v1"), two, dead)
    for runs in (sides.zombie, sides.heir):
        rewrite_statements(runs, rewrite)
    return sides


def rewrite_statements(runs: Runs, rewrite: Rewrite) -> None:
    """Let one speaker of the engine's SQL speak a changed one: for the mutants."""
    runs._sql = rewrite(dict(runs._sql))
    runs._commit_waiting = runs._sql["commit"].replace(b"SKIP LOCKED", b"")


async def _trial(sides: Sides, trial: int, rng: random.Random, tally: Tally) -> None:
    ids = [f"t{trial:05}-{n}" for n in range(ROWS)]
    await _owned_by_the_dead(sides, ids)
    batch = _checkpoints(ids, rng.choice(PAYLOADS))
    lead = rng.uniform(-MAX_OFFSET_SECONDS, MAX_OFFSET_SECONDS)
    written, seen = await asyncio.gather(
        _after(max(0.0, -lead), sides.zombie.commit(sides.zombie_session, batch)),
        _after(max(0.0, lead), _take_over(sides, ids)),
    )
    rows = await sides.heir_session.execute(
        "SELECT workflow_id FROM everstep.checkpoint WHERE workflow_id = ANY (%s) AND epoch = 1",
        [ids],
    )
    there = {row.workflow_id for row in await rows.fetchall()}
    tally.trials += 1
    tally.refused += bool(written.leftovers)
    tally.accepted += len(written.leftovers) < len(ids)
    tally.late += sorted(there - seen)
    # What was refused must not be there, and what was taken must be.
    assert there == set(ids) - set(written.leftovers)


async def _take_over(sides: Sides, ids: list[str]) -> set[str]:
    """Rescue, claim, load, until all are owned anew. Returns those whose checkpoint was seen by the load."""
    mine: set[str] = set()
    seen: set[str] = set()
    session = sides.heir_session
    while len(mine) < len(ids):
        await sides.heir.sweep(session, max_crashes=1_000_000, error=b"")
        claimed = await sides.heir.claim(
            session, Lane("default", 1), names=["race"], cursor=None, limit=100
        )
        logs = await sides.heir.load(session, [one.id for one in claimed])
        mine |= logs.keys()
        seen |= {id_ for id_, rows in logs.items() if rows}
    return seen


async def _after(seconds: float, what: Coroutine[Any, Any, T]) -> T:
    await asyncio.sleep(seconds)
    return await what


async def _owned_by_the_dead(sides: Sides, ids: list[str]) -> None:
    await sides.zombie_session.execute(
        "WITH i AS (SELECT unnest(%s::text[]) AS id), "
        "w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
        "      SELECT id, 'race', 'default', 1, '{}', now() FROM i) "
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at, worker_id, epoch) "
        "SELECT id, 'race', 'v1', 'default', 2, now(), %s, 1 FROM i",
        [ids, sides.dead],
    )


def _checkpoints(ids: list[str], size: int) -> CommitBatch:
    """One checkpoint per workflow, all claimed at epoch 1."""
    last = random.Random(size).randbytes(size)  # incompressible
    batch = CommitBatch()
    for id_ in ids:
        batch.c_id.append(id_)
        batch.c_epoch.append(1)
        batch.c_branch.append("")
        batch.c_seq.append(1)
        batch.c_kind.append(CheckpointKind.STEP)
        batch.c_name.append("late")
        batch.c_attempts.append(1)
        batch.c_codec.append(JSON)
        batch.c_output.append(last if id_ == ids[-1] else b"1")
        batch.c_error.append(None)
        batch.c_seconds.append(0.0)
        batch.c_target.append(None)
        batch.c_message.append(None)
    return batch
