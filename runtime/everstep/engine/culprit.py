"""Which workflow's row the database refuses: found by halving, while all others are committed on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime

from everstep.store.connection import RowRejected

NEVER = datetime.min.replace(tzinfo=UTC)

Commit = Callable[[set[str]], Awaitable[datetime]]
"""Commits the rows of some workflows, or raises RowRejected."""

Refuse = Callable[[str, str], None]
"""Told which workflow's row is refused, and why."""


async def commit_around(
    ids: Collection[str], reason: str, commit: Commit, refuse: Refuse
) -> datetime:
    """Commit all but the refused, of workflows whose rows were refused together. Returns when the last was.

    One among n costs log2(n) + 1 statements: what is set aside on the way goes in one at the end.
    """
    suspects, aside, at = sorted(ids), list[str](), NEVER
    while len(suspects) > 1:
        half, rest = _halves(suspects)
        try:
            at = max(at, await commit(set(half)))
        except RowRejected as error:
            suspects, reason = half, str(error)
            aside += rest
        else:
            suspects = rest
    refuse(suspects[0], reason)
    if not aside:
        return at
    try:
        return max(at, await commit(set(aside)))
    except RowRejected as error:
        if len(aside) == 1:
            refuse(aside[0], str(error))
            return at
    for part in _halves(aside):
        at = max(at, await _commit_part(part, commit, refuse))
    return at


async def _commit_part(part: Collection[str], commit: Commit, refuse: Refuse) -> datetime:
    try:
        return await commit(set(part))
    except RowRejected as error:
        return await commit_around(part, str(error), commit, refuse)


def _halves(ids: list[str]) -> tuple[list[str], list[str]]:
    middle = len(ids) // 2
    return ids[:middle], ids[middle:]
