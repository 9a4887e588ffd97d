"""The protocol's statements spoken directly, two workers against one database: what each check needs to say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from everstep.codec import JSON
from everstep.store.connection import Connection, connect
from everstep.store.models import CheckpointKind, Claimed, CommitBatch, Committed, Ending, Lane
from everstep.store.runs import Runs
from support.races import Rewrite, rewrite_statements

LANE = Lane("default", 1)


async def rescue(runs: Runs, session: Connection) -> int:
    """A sweep, however often they crashed. Returns how many runs it has freed."""
    return (await runs.sweep(session, max_crashes=1_000_000, error=b""))[0]


@dataclass(frozen=True)
class Speaker:
    """One worker's statements over one session."""

    me: UUID
    runs: Runs
    session: Connection

    async def claim(self, limit: int = 100) -> list[Claimed]:
        return await self.runs.claim(
            self.session, LANE, names=["w"], cursor="-infinity", limit=limit
        )

    async def record(
        self, id_: str, epoch: int, *, seq: int = 1, output: bytes = b"1", done: bool = False
    ) -> Committed:
        """Commit a checkpoint, and with `done` the ending as well."""
        batch = CommitBatch()
        add_checkpoint(batch, id_, epoch, ("", seq), output)
        if done:
            add_ending(batch, id_, epoch)
        return await self.runs.commit(self.session, batch)

    async def finish(self, id_: str, epoch: int) -> Committed:
        batch = CommitBatch()
        add_ending(batch, id_, epoch)
        return await self.runs.commit(self.session, batch)

    async def park(self, id_: str, epoch: int, *, hours: int = 1) -> Committed:
        at = await self.execute(f"SELECT everstep.clock() + interval '{hours} hours' AS at")
        batch = CommitBatch()
        add_park(batch, id_, epoch)
        batch.p_wake_at[0] = at
        batch.p_key[0] = "sleep"
        return await self.runs.commit(self.session, batch)

    async def hand_over(self, id_: str, epoch: int, generation: int = 1) -> Committed:
        """Leave a workflow to its next generation."""
        return await self.runs.commit(self.session, handing_over([id_], epoch, generation))

    async def log(self, id_: str) -> list[tuple[str, int]] | None:
        """The positions that whoever claims it would replay; None if it is not open."""
        logs = await self.runs.load(self.session, [id_])
        return [(row.branch, row.seq) for row in logs[id_]] if id_ in logs else None

    async def release(self) -> int:
        return await self.runs.release(self.session)

    async def rescue(self) -> int:
        return await rescue(self.runs, self.session)

    async def wake_due(self) -> int:
        return await self.runs.wake_due(self.session)

    async def execute(self, query: str, *arguments: object) -> object:
        """The first value of the first row, if there is one."""
        cursor = await self.session.execute(query.encode(), arguments)
        row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def add_checkpoint(
    batch: CommitBatch,
    id_: str,
    epoch: int,
    position: tuple[str, int],
    output: bytes = b"1",
    kind: CheckpointKind = CheckpointKind.STEP,
) -> None:
    batch.c_id.append(id_)
    batch.c_epoch.append(epoch)
    batch.c_branch.append(position[0])
    batch.c_seq.append(position[1])
    batch.c_kind.append(kind)
    batch.c_name.append("step")
    batch.c_attempts.append(1)
    batch.c_codec.append(JSON)
    batch.c_output.append(output)
    batch.c_error.append(None)
    batch.c_seconds.append(0.0)
    batch.c_target.append(None)
    batch.c_message.append(None)


def add_park(batch: CommitBatch, id_: str, epoch: int, generation: int = 0) -> None:
    batch.p_id.append(id_)
    batch.p_epoch.append(epoch)
    batch.p_wake_at.append(None)
    batch.p_key.append(None)
    batch.p_signals.append(-1)  # it waits for no message
    batch.p_generation.append(generation)


def handing_over(ids: list[str], epoch: int, generation: int) -> CommitBatch:
    """The batch by which workflows are left to a generation."""
    batch = CommitBatch()
    for id_ in ids:
        position, kind = (f"~{generation}", 1), CheckpointKind.CONTINUE
        add_checkpoint(batch, id_, epoch, position, b'{"n": 1}', kind)
        add_park(batch, id_, epoch, generation)
    return batch


def add_ending(batch: CommitBatch, id_: str, epoch: int) -> None:
    batch.d_id.append(id_)
    batch.d_epoch.append(epoch)
    batch.d_status.append(Ending.SUCCEEDED)
    batch.d_output.append(b"1")
    batch.d_error.append(None)


@asynccontextmanager
async def two_workers(url: str, rewrite: Rewrite) -> AsyncIterator[tuple[Speaker, Speaker]]:
    """Two live workers of version v1, the current one, and one queued workflow `w`."""
    async with await connect(url, "one") as one, await connect(url, "two") as two:
        await one.execute("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
        speakers = [await _speaker(session, rewrite) for session in (one, two)]
        await queue(speakers[0], "w")
        yield speakers[0], speakers[1]


async def queue(speaker: Speaker, id_: str, *, version: str | None = None) -> None:
    await speaker.execute(
        "WITH w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
        "VALUES (%s, 'w', 'default', 1, '{}', now())) "
        "INSERT INTO everstep.run (id, name, version, queue, state, ready_at) "
        "VALUES (%s, 'w', %s, 'default', 1, now())",
        id_,
        id_,
        version,
    )


async def _speaker(session: Connection, rewrite: Rewrite) -> Speaker:
    me = uuid4()
    await session.execute(
        "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
        "VALUES (%s, 'test', 'v1', 1, 1, now(), now() + interval '1 hour')",
        [me],
    )
    runs = Runs("everstep", me, "v1")
    rewrite_statements(runs, rewrite)
    return Speaker(me, runs, session)
