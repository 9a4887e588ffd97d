"""Statements of run.sql: what workers do with workflows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncRawCursor

from everstep.store.arrays import (
    BigInts,
    Byteas,
    Column,
    Floats,
    Ints,
    Jsons,
    Reals,
    SmallInts,
    Texts,
    Timestamps,
)
from everstep.store.carried import rows_under
from everstep.store.connection import Connection
from everstep.store.models import Checkpoint, Claimed, CommitBatch, Committed, Lane, Look, Verdict
from everstep.store.statements import numbered, statements

CLAIM_TIMEOUT_SECONDS = 15
"""A claim never runs longer on the server; mark_drained waits twice as long (docs/internals/rollout.md)."""

WAKE_AT_ONCE = 500
"""As many sleepers as wake_due wakes."""

# How it is planned counts for claims of limited queues: they are a function, whose plans the server's session keeps.
_CLAIM_SETTINGS = (
    b"SET LOCAL statement_timeout = '%ds'; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; "
    b"SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off; " % CLAIM_TIMEOUT_SECONDS
)


_COLUMNS: dict[str, type[Column]] = {
    "c_id": Texts,
    "c_epoch": Ints,
    "c_branch": Texts,
    "c_seq": Ints,
    "c_kind": SmallInts,
    "c_name": Texts,
    "c_attempts": SmallInts,
    "c_codec": SmallInts,
    "c_output": Byteas,
    "c_error": Byteas,
    "c_seconds": Reals,
    "c_target": Texts,
    "c_message": BigInts,
    "s_parent": Texts,
    "s_epoch": Ints,
    "s_id": Texts,
    "s_name": Texts,
    "s_queue": Texts,
    "s_priority": SmallInts,
    "s_codec": SmallInts,
    "s_input": Byteas,
    "s_attributes": Jsons,
    "s_delay": Floats,
    "s_run_at": Timestamps,
    "s_timeout": Floats,
    "s_deadline": Timestamps,
    "s_version": Texts,
    "s_partition": Texts,
    "d_id": Texts,
    "d_epoch": Ints,
    "d_status": SmallInts,
    "d_output": Byteas,
    "d_error": Byteas,
    "p_id": Texts,
    "p_epoch": Ints,
    "p_wake_at": Timestamps,
    "p_key": Texts,
    "p_signals": Ints,
    "p_generation": Ints,
}


class Runs:
    """The statements of run.sql, as one worker speaks them."""

    def __init__(self, schema: str, me: UUID, version: str) -> None:
        self._sql = statements(schema)
        self._me = me
        self._version = version
        self._commit_waiting = self._sql["commit"].replace(b"SKIP LOCKED", b"")

    async def lanes(self, connection: Connection, looks: Sequence[Look]) -> list[Lane]:
        """Where there is something to claim, of the queues and priorities looked at."""
        arguments = {
            "queues": Texts([look.queue for look in looks]),
            "priorities": SmallInts([look.priority for look in looks]),
            "cursors": Timestamps([look.cursor for look in looks]),
        }
        cursor = await connection.execute(self._sql["lanes"], arguments, binary=True)
        return [Lane(*row) for row in await cursor.fetchall()]

    async def claim(
        self,
        connection: Connection,
        lane: Lane,
        *,
        names: Sequence[str],
        cursor: datetime | None,
        limit: int,
        until: datetime | None = None,
        suspect: bool = False,
    ) -> list[Claimed]:
        """Take up to `limit` workflows of a lane, ready from `cursor` to `until`.

        `suspect`: those that keep crashing their workers, instead of the others.
        """
        arguments = {
            "queue": lane.queue,
            "priority": lane.priority,
            "names": list(names),
            "cursor": cursor or "-infinity",
            "until": until or "infinity",
            "limit": limit,
            "suspect": suspect,
            "me": self._me,
            "version": self._version,
        }
        sql = self._sql["claim"]
        if suspect:
            # Said outright, so that the planner finds the few of them by their own index.
            sql = sql.replace(b"(r.crashes >= 3) = %(suspect)s", b"r.crashes >= 3")
        rows = await claim_rows(connection, sql, arguments)
        return [Claimed(*row) for row in rows]

    async def load(self, connection: Connection, ids: Sequence[str]) -> dict[str, list[Checkpoint]]:
        """The logs of workflows, by id; without those that are not open any more."""
        cursor = await connection.execute(self._sql["load"], {"ids": list(ids)}, binary=True)
        logs: dict[str, list[Checkpoint]] = {}
        for row in await cursor.fetchall():
            rows = logs.setdefault(row.workflow_id, [])
            if row.seq is None:
                continue
            rows.append(
                Checkpoint(
                    branch=row.branch,
                    seq=row.seq,
                    kind=row.kind,
                    name=row.name,
                    attempts=row.attempts,
                    codec=row.codec,
                    output=row.output,
                    error=row.error,
                    recorded_at=row.recorded_at,
                )
            )
        return logs

    async def commit(
        self, connection: Connection, batch: CommitBatch, *, waiting: bool = False
    ) -> Committed:
        """Record a batch. `waiting`: wait for runs that others hold locked instead of leaving them over."""
        sql = self._commit_waiting if waiting else self._sql["commit"]
        query, names = numbered(sql, batch.parts())
        given: dict[str, object] = {"ids": Texts(sorted(batch.ids())), "me": self._me}
        cursor = AsyncRawCursor(connection)
        await cursor.execute(
            query,
            [
                given[name] if name in given else _COLUMNS[name](getattr(batch, name))
                for name in names
            ],
        )
        row = await cursor.fetchone()
        assert row is not None
        return Committed(**row._asdict())

    async def verdicts(
        self, connection: Connection, owned: Sequence[tuple[str, int]]
    ) -> dict[str, Verdict]:
        """What became of the given (id, epoch) pairs' rows."""
        arguments = {"ids": [o[0] for o in owned], "epochs": [o[1] for o in owned], "me": self._me}
        cursor = await connection.execute(self._sql["verdict"], arguments)
        return {
            row.id: Verdict(row.id, row.epoch, row.owner, row.finished, _positions(row.mine))
            for row in await cursor.fetchall()
        }

    async def release(self, connection: Connection, crashed: Collection[str] = ()) -> int:
        """Give back everything this worker holds, save what has crashed it. Returns how many."""
        arguments = {"me": self._me, "crashed": list(crashed)}
        return await _count(connection, self._sql["release"], arguments)

    async def cancelled(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        """Those of my running workflows that somebody has cancelled."""
        arguments = {"ids": list(ids), "me": self._me}
        cursor = await connection.execute(self._sql["cancelled"], arguments)
        return [row.id for row in await cursor.fetchall()]

    async def owned(self, connection: Connection) -> dict[str, int]:
        """Ids and epochs of the workflows this worker owns in the database."""
        cursor = await connection.execute(self._sql["owned"], {"me": self._me})
        return {row.id: row.epoch for row in await cursor.fetchall()}

    async def release_strays(self, connection: Connection, ids: Sequence[str]) -> int:
        """Give back workflows this worker owns but does not run. Returns how many."""
        return await _count(
            connection, self._sql["release_strays"], {"ids": list(ids), "me": self._me}
        )

    async def sweep(
        self, connection: Connection, max_crashes: int, error: bytes
    ) -> tuple[int, int]:
        """Free up to 500 runs of workers that are not live; those that crashed too often become dead letters.

        Returns how many are free, and how many it has given up.
        """
        arguments = {"max_crashes": max_crashes, "error": error}
        row = await (await connection.execute(self._sql["rescue"], arguments)).fetchone()
        assert row is not None
        return row.rescued, row.buried

    async def bury(self, connection: Connection, max_crashes: int, error: bytes) -> int:
        """Finish runs that crashed too often as dead letters. Returns how many."""
        return await _count(
            connection, self._sql["bury"], {"max_crashes": max_crashes, "error": error}
        )

    async def any_due(self, connection: Connection) -> bool:
        """Whether any timer is due."""
        cursor = await connection.execute(self._sql["any_due"])
        return await cursor.fetchone() is not None

    async def wake_due(self, connection: Connection) -> int:
        """Make up to WAKE_AT_ONCE workflows whose timer is due claimable. Returns how many."""
        return await _count(connection, self._sql["wake_due"], {})


async def claim_rows(
    connection: Connection, sql: bytes, arguments: Mapping[str, object]
) -> list[Any]:
    """The rows of a claim, which the server ends after CLAIM_TIMEOUT_SECONDS."""
    return await rows_under(connection, _CLAIM_SETTINGS, sql, arguments)


async def _count(connection: Connection, sql: bytes, arguments: dict[str, object]) -> int:
    cursor = await connection.execute(sql, arguments)
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


def _positions(texts: Collection[str]) -> frozenset[tuple[str, int]]:
    pairs = (text.rpartition(":") for text in texts)
    return frozenset((branch, int(seq)) for branch, _, seq in pairs)
