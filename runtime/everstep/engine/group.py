"""The rows of one group commit: how they are added, told apart, and taken out again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime

from everstep.acknowledgement import Acknowledgement
from everstep.context import Execution
from everstep.store.models import Checkpoint, CommitBatch, Start, Verdict

NEVER_SECONDS = 1e10
"""No timeout, as a number that make_interval takes: three centuries."""


@dataclass(eq=False, slots=True)
class Group:
    """One batch, the executions it speaks of, and its acknowledgement."""

    done: Acknowledgement = field(default_factory=Acknowledgement)
    rows: CommitBatch = field(default_factory=CommitBatch)
    size: int = 0
    executions: dict[str, Execution] = field(default_factory=dict)


def add_checkpoint(rows: CommitBatch, execution: Execution, row: Checkpoint) -> None:
    """One outcome."""
    rows.c_id.append(execution.id)
    rows.c_epoch.append(execution.epoch)
    rows.c_branch.append(row.branch)
    rows.c_seq.append(row.seq)
    rows.c_kind.append(row.kind)
    rows.c_name.append(row.name)
    rows.c_attempts.append(row.attempts)
    rows.c_codec.append(row.codec)
    rows.c_output.append(row.output)
    rows.c_error.append(row.error)
    rows.c_seconds.append(row.seconds)
    rows.c_target.append(row.target)
    rows.c_message.append(row.message)


def add_park(
    rows: CommitBatch,
    execution: Execution,
    wake_at: datetime | None = None,
    key: str | None = None,
    *,
    signals: int = -1,
    generation: int = 0,
) -> None:
    """A workflow leaves: to wait, or with a generation to begin that."""
    rows.p_id.append(execution.id)
    rows.p_epoch.append(execution.epoch)
    rows.p_wake_at.append(wake_at)
    rows.p_key.append(key)
    rows.p_signals.append(signals)
    rows.p_generation.append(generation)


def add_child(rows: CommitBatch, execution: Execution, start: Start) -> None:
    """The start of a child, which goes with a checkpoint of its parent."""
    rows.s_parent.append(execution.id)
    rows.s_epoch.append(execution.epoch)
    rows.s_id.append(start.id)
    rows.s_name.append(start.name)
    rows.s_queue.append(start.queue)
    rows.s_priority.append(start.priority)
    rows.s_codec.append(start.codec)
    rows.s_input.append(start.input)
    rows.s_attributes.append(None if start.attributes is None else json.dumps(start.attributes))
    rows.s_delay.append(start.delay)
    rows.s_run_at.append(start.run_at)
    rows.s_timeout.append(NEVER_SECONDS if start.timeout is None else start.timeout)
    rows.s_deadline.append(start.deadline)
    rows.s_version.append(start.version)
    rows.s_partition.append(start.partition)


def owned(rows: CommitBatch) -> list[tuple[str, int]]:
    """The workflows of these rows, with their epochs."""
    pairs = {
        **dict(zip(rows.c_id, rows.c_epoch, strict=True)),
        **dict(zip(rows.d_id, rows.d_epoch, strict=True)),
        **dict(zip(rows.p_id, rows.p_epoch, strict=True)),
    }
    return list(pairs.items())


def all_mine(rows: CommitBatch, verdict: Verdict) -> bool:
    """Whether every row of this workflow is there already, written by me: a lost reply, repeated."""
    if verdict.id in rows.d_id or verdict.id in rows.p_id:
        return False
    positions = {
        (branch, seq)
        for id_, branch, seq in zip(rows.c_id, rows.c_branch, rows.c_seq, strict=True)
        if id_ == verdict.id
    }
    return positions <= verdict.mine


def only(rows: CommitBatch, ids: set[str]) -> CommitBatch:
    """The rows of some workflows."""
    part = CommitBatch()
    for prefix, owner in (("c_", "c_id"), ("d_", "d_id"), ("p_", "p_id"), ("s_", "s_parent")):
        keep = [i for i, id_ in enumerate(getattr(rows, owner)) if id_ in ids]
        for name in CommitBatch.__slots__:
            if name.startswith(prefix):
                column = getattr(rows, name)
                setattr(part, name, [column[i] for i in keep])
    return part
