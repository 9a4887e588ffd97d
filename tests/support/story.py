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
from everstep.store.workers import Workers
from everstep.store.workflows import Workflows
from support.oracle import LEASE_SECONDS, Oracle

T = TypeVar("T")

CLOCK = """
CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
$$SELECT timestamptz '2026-01-01 00:00Z' + make_interval(secs => coalesce(current_setting('fake.now', true), '0')::float8)$$;
SELECT everstep.set_routing('v1', NULL, 0, NULL)
"""
TRUNCATE = """
TRUNCATE everstep.run, everstep.workflow, everstep.checkpoint, everstep.message, everstep.event, everstep.stream,
         everstep.worker, everstep.metric_delta
"""
DUMP = """
SELECT (SELECT jsonb_object_agg(r.id, jsonb_build_array(
            r.state, everstep.ms(r.ready_at), everstep.ms(r.wake_at), r.wait_key, right(r.worker_id::text, 6), r.epoch,
            r.signals, r.cancel, r.crashes, r.progress, r.dedup, r.version IS NOT NULL, coalesce(r.waiters, '{}')))
          FROM everstep.run r) AS runs,
       (SELECT jsonb_object_agg(w.id, jsonb_build_array(
            w.status, right(w.finished_by::text, 6), w.finished_epoch, convert_from(w.output, 'UTF8'), w.parent_id))
          FROM everstep.workflow w) AS workflows,
       (SELECT jsonb_object_agg(c.workflow_id || ':' || c.seq, jsonb_build_array(
            c.kind, right(c.worker_id::text, 6), c.epoch)) FROM everstep.checkpoint c) AS checkpoints,
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


class Engine:
    """The real statements, spoken by any worker over one session."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.session: Connection = self.do(connect(url, "story"))
        self.messages = Messages("everstep")
        self.workflows = Workflows("everstep")
        self._runs: dict[int, Runs] = {}
        for statements in (CLOCK, MILLISECONDS):
            for statement in statements.split(";\n"):
                self.execute(statement)

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def execute(self, query: str, *arguments: object) -> list[Any]:
        async def execute() -> list[Any]:
            cursor = await self.session.execute(query.encode(), arguments or None)
            return await cursor.fetchall() if cursor.description else []

        return self.do(execute())

    def runs(self, worker: int) -> Runs:
        return self._runs.setdefault(worker, Runs("everstep", uuid_of(worker), "v1"))

    def workers(self, worker: int) -> Workers:
        return Workers("everstep", uuid_of(worker))

    def set_time(self, now: float) -> None:
        self.execute("SELECT set_config('fake.now', %s, false)", str(now))

    def register(self, worker: int) -> None:
        self.do(
            self.workers(worker).register(
                self.session, pod="p", version="v1", slots=1, ttl=LEASE_SECONDS
            )
        )

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
        self._runner.close()


def uuid_of(worker: int) -> UUID:
    return UUID(int=worker)


def expected(oracle: Oracle) -> list[dict[str, Any]]:
    """What Engine.dump must give."""

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
            f"{i}:{seq}": [kind, name(worker), epoch]
            for i, w in oracle.workflows.items()
            for seq, (kind, worker, epoch) in w.log.items()
        },
        {f"{i}:{m.body}": m.taken_at for i, w in oracle.workflows.items() for m in w.mail},
        {f"{kind}:{outcome}": n for (kind, outcome), n in oracle.counts.items() if n},
    ]


def row(
    claim: Claim, kind: int, seq: int, *, output: bytes = b"1", message: int | None = None
) -> CommitBatch:
    """A batch with one checkpoint."""
    batch = CommitBatch()
    for column, value in (
        *(("c_id", claim.id), ("c_epoch", claim.epoch), ("c_branch", ""), ("c_seq", seq)),
        *(("c_kind", kind), ("c_name", "t"), ("c_attempts", 1), ("c_codec", JSON)),
        *(("c_output", output), ("c_error", None), ("c_seconds", 0.0), ("c_target", None)),
        ("c_message", message),
    ):
        getattr(batch, column).append(value)
    return batch
