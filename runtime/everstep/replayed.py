"""What a task carries out that is made at a replay, where its log says that it was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from everstep.branch import Branch
from everstep.cancelling import cancels_itself
from everstep.cuts import cut_of
from everstep.durable.stopping import be_stopped
from everstep.errors import NonDeterminismError


def as_in_its_log(coroutine: Coroutine[Any, Any, Any], branch: Branch) -> Coroutine[Any, Any, Any]:
    """What a task carries out that is made at a replay, if its log says that it was cancelled."""
    cut = cut_of(branch, 1)
    if cut is None:
        return coroutine
    return _never_begin(branch) if cut.at is None else _as_it_ended(coroutine, branch)


async def _never_begin(branch: Branch) -> None:
    """Who cancels it may come later than in the first run."""
    await be_stopped(branch.execution)


async def _as_it_ended(coroutine: Coroutine[Any, Any, Any], branch: Branch) -> Any:
    """A task that was cancelled ends as in the first run, though what it awaited last may be there at a replay.

    Raises NonDeterminismError if it did something after that which it does not come to this time.
    """
    try:
        value = await coroutine
    except Exception:
        _end_as_it_did(branch)
        raise
    _end_as_it_did(branch)
    return value


def _end_as_it_did(branch: Branch) -> None:
    execution = branch.execution
    if not cancels_itself(execution):
        return
    try:
        execution.ended_at(branch, "the end of a task that was cancelled")
    except NonDeterminismError as error:
        execution.broken = execution.broken or error
        raise
    nth = 1
    while (cut := cut_of(branch, nth)) is not None:
        if cut.over:
            raise asyncio.CancelledError
        nth += 1
