"""Values that a workflow must not take from the world itself: time, chance, identity, and which code it runs.

Each is recorded where it was asked for, so that a replay gets the same.
"""

from __future__ import annotations

import random as chance
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from everstep.branch import Branch, asleep
from everstep.context import awaiting_branch, branch_here
from everstep.durable.talking import Position, plain_row
from everstep.errors import UsageError
from everstep.portal import on_loop, record_there
from everstep.store.models import CheckpointKind
from everstep.texts import checked


def now() -> Coroutine[object, None, datetime]:
    """The database's time when this was first reached; in UTC."""
    branch = awaiting_branch("everstep.now()")
    return _now(branch, branch.next_position())


async def _now(branch: Branch, position: Position) -> datetime:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.VALUE, "now")
    if row is not None and row.recorded_at is not None:
        if branch.task is not None:
            await branch.task.oversleep()
        return row.recorded_at
    row = plain_row(position, CheckpointKind.VALUE, "now", output=b"null")
    with execution.engagement(), asleep(branch):
        recorded_at = await execution.record(row).wait()
    execution.check()
    return recorded_at


def uuid() -> Coroutine[object, None, UUID]:
    """A random UUID, the same on every replay."""
    branch = awaiting_branch("everstep.uuid()")
    return _uuid(branch, branch.next_position())


async def _uuid(branch: Branch, position: Position) -> UUID:
    return UUID(_recorded(branch, position, "uuid", lambda: str(uuid4())))


def random() -> Coroutine[object, None, float]:
    """A random number from 0 up to 1, the same on every replay."""
    branch = awaiting_branch("everstep.random()")
    return _random(branch, branch.next_position())


async def _random(branch: Branch, position: Position) -> float:
    return float(_recorded(branch, position, "random", chance.random))


def _recorded(branch: Branch, position: Position, name: str, make: Callable[[], Any]) -> Any:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.VALUE, name)
    if row is None:
        execution.check()
        row = plain_row(position, CheckpointKind.VALUE, name, output=msgspec.json.encode(make()))
        execution.record(row)
    assert row.output is not None
    return msgspec.json.decode(row.output)


def patched(patch: str) -> bool:
    """Whether this workflow runs the new code of a change: True where it came here after the change.

    A workflow that passed this place before the change goes on with the old code, on every replay:
    `if everstep.patched("fees-2"): await new_way() else: await old_way()`.
    """
    branch = branch_here("everstep.patched()")
    execution = branch.execution
    position = branch.path, branch.seq + 1
    row = execution.log.get(position)
    if row is not None:
        mine = row.kind == CheckpointKind.VALUE and row.name == _patch_name(patch)
        if mine:
            branch.next_position()
        return mine
    branch.next_position()
    _record_from_here(branch, position, patch)
    return True


def deprecate_patch(patch: str) -> None:
    """Takes the place of `patched` once no workflow needs the old code: steps over its mark, if there is one."""
    branch = branch_here("everstep.deprecate_patch()")
    row = branch.execution.log.get((branch.path, branch.seq + 1))
    if row is not None and row.kind == CheckpointKind.VALUE and row.name == _patch_name(patch):
        branch.next_position()


def _record_from_here(branch: Branch, position: Position, patch: str) -> None:
    execution = branch.execution
    execution.check()
    row = plain_row(position, CheckpointKind.VALUE, _patch_name(patch), output=b"true")
    if execution.plain:
        on_loop(execution, record_there(execution, row))
    else:
        execution.record(row)


def _patch_name(patch: str) -> str:
    if not checked(patch, "a patch's name"):
        raise UsageError("a patch has a name")
    return f"patch {patch}"
