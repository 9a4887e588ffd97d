"""What the log says of a task's cancellations: checkpoints in a branch of the task's own."""

from __future__ import annotations

import msgspec

from everstep.branch import Branch
from everstep.codec import JSON
from everstep.store.models import Checkpoint, CheckpointKind

_NAME = "cancel"


class Cut(msgspec.Struct, frozen=True):
    """How far a task had come when it was cancelled: the positions and tasks it had taken, or None before it began.

    `asleep`: in a durable sleep, or while a time was recorded: nothing else says that these were cut short. `limits`: of
    how many time limits of its own it had been told, and `within`, whether the last one's block had not been left yet.
    `called`: no cancellation, but that the one before was told by a call, which the task had come to all the same. `over`:
    that the task ended as cancelled after those before.
    """

    at: int | None = None
    asleep: bool = False
    limits: int = 0
    within: bool = False
    called: bool = False
    over: bool = False


def cut_of(branch: Branch, nth: int) -> Cut | None:
    """What the log says of the nth cancellation of a branch's task."""
    row = branch.execution.recorded(place_of(branch, nth), CheckpointKind.VALUE, _NAME)
    if row is None:
        return None
    assert row.output is not None
    return msgspec.json.decode(row.output, type=Cut)


def place_of(branch: Branch, nth: int) -> tuple[str, int]:
    """Of a task's nth cancellation. Its own tasks are numbered from 1, so nobody else has this branch."""
    return (f"{branch.path}.0" if branch.path else "0"), nth


def row_of(branch: Branch, nth: int, cut: Cut) -> Checkpoint:
    """What is recorded of the nth cancellation of a branch's task."""
    body = msgspec.json.encode(cut)
    return Checkpoint(*place_of(branch, nth), CheckpointKind.VALUE, _NAME, 1, JSON, body, None)
