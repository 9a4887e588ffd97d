"""What is stored of a claimed workflow is read before anything of it runs, or it is left to workers that can read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from everstep.context import Execution
from everstep.durable.unreadable import HELD_SECONDS, say_unreadable, wait_for_a_reader
from everstep.durable.waiting import wait_until
from everstep.encoding import Encoding
from everstep.errors import CodecError
from everstep.store.models import Checkpoint, Claimed


def opened(
    encoding: Encoding, claimed: Claimed, rows: Iterable[Checkpoint], continued: Checkpoint | None
) -> tuple[bytes, list[Checkpoint]]:
    """The JSON of its function's arguments, and its log as it was recorded. Raises CodecError.

    All of the log, not as replay asks for it: so there are no branches to stop, and no code of the user's hears of it.
    """
    log = [encoding.opened(claimed.id, row) for row in rows]
    if continued is None:
        return encoding.input(claimed.input, claimed.id, claimed.name), log
    body = encoding.opened(claimed.id, continued).output
    assert body is not None
    return body, log


async def leave_to_others(execution: Execution, error: CodecError) -> None:
    """Park a workflow that cannot be read here. Raises Parked, or what was decided meanwhile."""
    say_unreadable(execution, error)
    await asyncio.sleep(HELD_SECONDS)
    wait = wait_for_a_reader(execution, error)
    assert wait.until is not None
    await wait_until(execution, ("", 0), wait.until, wait.keys[0])
