"""One engine's database told a story by several workers, in fake time, and held against the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from everstep.codec import JSON
from everstep.store.connection import Connection, connect
from everstep.store.fsck import invariants
from everstep.store.messages import Messages
from everstep.store.models import CommitBatch, Committed
from everstep.store.runs import Runs
from everstep.store.statements import statements
from everstep.store.workers import Workers
from everstep.store.workflows import Workflows
from support.oracle import LEASE_SECONDS, Oracle
from support.races import Rewrite

T = TypeVar("T")

CLOCK = """
CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
$$SELECT timestamptz '2026-01-01 00:00Z' + make_interval(secs => coalesce(current_setting('fake.now', true), '0')::float8)$$;
SELECT everstep.set_routing('v1', NULL, 0, NULL)
"""
# Not by TRUNCATE: after that, the server plans every statement anew, which takes longer than a story.
EMPTY = """
WITH a AS (DELETE FROM everstep.run), b AS (DELETE FROM everstep.workflow), c AS (DELETE FROM everstep.checkpoint),
     d AS (DELETE FROM everstep.message), e AS (DELETE FROM everstep.event), f AS (DELETE FROM everstep.stream),
     g AS (DELETE FROM everstep.worker)
DELETE FROM everstep.metric_delta
"""
TABLES = ("run", "workflow", "checkpoint", "message", "metric_delta")
DUMP = """
SELECT (SELECT jsonb_object_agg(r.id, jsonb_build_array(
            r.state, everstep.ms(r.ready_at), everstep.ms(r.wake_at), r.wait_key, right(r.worker_id::text, 6), r.epoch,
            r.signals, r.cancel, r.crashes, r.progress, r.dedup, r.version IS NOT NULL, coalesce(r.waiters, '{}')))
          FROM everstep.run r) AS runs,
       (SELECT jsonb_object_agg(w.id, jsonb_build_array(
            w.status, right(w.finished_by::text, 6), w.finished_epoch, convert_from(w.output, 'UTF8'), w.parent_id))
          FROM everstep.workflow w) AS workflows,
       (SELECT jsonb_object_agg(c.workflow_id || ':' || c.seq, jsonb_build_array(
            c.kind, right(c.worker_id::text, 6), c.epoch, convert_from(c.output, 'UTF8'))) FROM everstep.checkpoint c) AS checkpoints,
       (SELECT jsonb_object_agg(m.workflow_id || ':' || convert_from(m.body, 'UTF8'), m.consumed_seq)
          FROM everstep.message m) AS messages,
       (SELECT jsonb_object_agg(d.kind || ':' || d.outcome, d.n) FROM (
            SELECT kind, outcome, sum(n) AS n FROM everstep.metric_delta GROUP BY kind, outcome) d) AS counts,
       set_config('fake.now', %s, false)
"""
MILLISECONDS = """
CREATE FUNCTION everstep.ms(t timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$SELECT round(extract(epoch FROM t - timestamptz '2026-01-01 00:00Z') * 1000)::bigint$$
"""


@dataclass(eq=False)
class Claim:
    """What a worker remembers of a workflow it claimed; it may be long outdated."""

    worker: int
    id: str
    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"worker {self.worker}, with {self.id} at epoch {self.epoch},"


class Engine:
    """The real statements, spoken by any worker over one session."""

    def __init__(self, url: str, rewrite: Rewrite = lambda sql: sql) -> None:
        self._loop = asyncio.new_event_loop()
        self.session: Connection = self.do(connect(url, "story"))
        # What an unfinished commit would lose is not what a story is about, and waiting for it takes time.
        self.execute("SET synchronous_commit = off")
        self._sql = rewrite(dict(statements("everstep")))
        self.messages = self._speaking(Messages("everstep"))
        self.workflows = self._speaking(Workflows("everstep"))
        self._runs: dict[int, Runs] = {}
        for statement in (*CLOCK.split(";\n"), MILLISECONDS):
            self.execute(statement)

    def _speaking(self, speaker: T) -> T:
        """It speaks the statements of this engine, which may be those of a mutant."""
        speaker._sql = self._sql  # type: ignore[attr-defined]
        return speaker

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def execute(self, query: str, *arguments: object) -> list[Any]:
        async def execute() -> list[Any]:
            cursor = await self.session.execute(query.encode(), arguments or None)
            return await cursor.fetchall() if cursor.description else []

        return self.do(execute())

    def runs(self, worker: int) -> Runs:
        if worker not in self._runs:
            self._runs[worker] = self._speaking(Runs("everstep", UUID(int=worker), "v1"))
        return self._runs[worker]

    def workers(self, worker: int) -> Workers:
        return self._speaking(Workers("everstep", UUID(int=worker)))

    def empty(self) -> None:
        self.execute(EMPTY)

    def set_time(self, now: float) -> None:
        self.execute("SELECT set_config('fake.now', %s, false)", str(now))

    def register(self, worker: int) -> None:
        self.do(
            self.workers(worker).register(
                self.session, pod="p", version="v1", slots=1, ttl=LEASE_SECONDS
            )
        )

    def beat(self, worker: int) -> set[str] | None:
        """What of its workflows was cancelled; None: it was declared dead."""
        arguments = {"me": UUID(int=worker), "ttl": LEASE_SECONDS}

        async def beat() -> Any:
            return await (await self.session.execute(self._sql["beat"], arguments)).fetchone()

        found = self.do(beat())
        return None if found is None else set(found.cancels)

    def commit(self, claim: Claim, batch: CommitBatch) -> tuple[str, Committed]:
        """What became of a commit, as the committer would find out."""
        runs = self.runs(claim.worker)
        reply = self.do(runs.commit(self.session, batch))
        if not reply.leftovers:
            if batch.p_id:
                if reply.cancels:
                    return "cancelled", reply
                return ("stirred" if reply.stirred else "parked"), reply
            return "written", reply
        (verdict,) = self.do(runs.verdicts(self.session, [(claim.id, claim.epoch)])).values()
        if not verdict.owner:
            return ("finished" if verdict.finished else "fenced"), reply
        return ("mine" if verdict.mine else "conflict"), reply

    def dump_and_set_time(self, now: float) -> list[dict[str, Any]]:
        """What is in the tables; and the clock goes on, in the same round trip."""
        (found,) = self.execute(DUMP, str(now))
        return [value or {} for value in found[:-1]]

    def fsck(self) -> list[Any]:
        """No invariant may be broken, with no patience."""
        for name, value in (("fsck_since", "-infinity"), ("fsck_grace", "0 s")):
            self.execute("SELECT set_config(%s, %s, false)", f"everstep.{name}", value)
        return [
            row for query in invariants("everstep").values() for row in self.execute(query.decode())
        ]

    def close(self) -> None:
        self.do(self.session.close())
        self._loop.close()


def difference(found: list[dict[str, Any]], oracle: Oracle) -> dict[str, Any]:
    """The rows that are not as the oracle says: what there is, and what there should be."""
    return {
        f"{table} {key}": {"found": rows.get(key), "expected": wanted.get(key)}
        for table, rows, wanted in zip(TABLES, found, expected(oracle), strict=True)
        for key in sorted(rows.keys() | wanted.keys())
        if rows.get(key) != wanted.get(key)
    }


def expected(oracle: Oracle) -> list[dict[str, Any]]:
    """What Engine.dump_and_set_time must give."""

    def ms(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    def name(worker: int | None) -> str | None:
        return None if worker is None else f"{worker:06x}"

    return [
        {
            i: [
                *(r.state, ms(r.ready_at), ms(r.wake_at), r.wait_key, name(r.worker), r.epoch),
                *(r.signals, r.cancel, r.crashes, r.progress, r.dedup, r.pinned, r.waiters),
            ]
            for i, r in oracle.runs.items()
        },
        {
            i: [
                w.status,
                name(w.by),
                w.epoch,
                None if w.output is None else str(w.output),
                w.parent,
            ]
            for i, w in oracle.workflows.items()
        },
        {
            f"{i}:{seq}": [kind, name(worker), epoch, outcome]
            for i, w in oracle.workflows.items()
            for seq, (kind, worker, epoch, outcome) in w.log.items()
        },
        {f"{i}:{m.body}": m.taken_at for i, w in oracle.workflows.items() for m in w.mail},
        {f"{kind}:{outcome}": n for (kind, outcome), n in oracle.counts.items() if n},
    ]


def row(
    claim: Claim, kind: int, seq: int, *, output: bytes = b"1", message: int | None = None
) -> CommitBatch:
    """A batch with one checkpoint."""
    return columns(
        c_id=claim.id,
        c_epoch=claim.epoch,
        c_branch="",
        c_seq=seq,
        c_kind=kind,
        c_name="t",
        c_attempts=1,
        c_codec=JSON,
        c_output=output,
        c_error=None,
        c_seconds=0.0,
        c_target=None,
        c_message=message,
    )


def columns(batch: CommitBatch | None = None, /, **values: object) -> CommitBatch:
    """A batch, or the one that is given, with one more row."""
    batch = CommitBatch() if batch is None else batch
    for column, value in values.items():
        getattr(batch, column).append(value)
    return batch
