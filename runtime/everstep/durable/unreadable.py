"""What this worker's codec cannot decode waits for a worker that can: a wrong or forgotten key costs nobody a workflow.

The workflow waits parked, as for an instant, and is tried again: by whichever worker claims it then. It has not
crashed anybody and nothing of it has run, so nothing is counted and nothing is recorded.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from everstep.context import Execution, Wait
from everstep.errors import CodecError

log = logging.getLogger("everstep")

AGAIN_SECONDS = 30.0
"""After so long it may be claimed again."""

HELD_SECONDS = 1.0
"""How long it keeps its place first. Without that a wrong worker, always idle, would get at most of the queue."""


def wait_for_a_reader(execution: Execution, error: CodecError) -> Wait:
    """What a workflow waits for that has met a payload which cannot be decoded here."""
    mark = datetime.now(UTC)
    still = AGAIN_SECONDS - execution.recorder.clock.until(mark)
    return Wait(mark + timedelta(seconds=still), None, (f"codec:{error.codec}",))


def say_unreadable(execution: Execution, error: CodecError) -> None:
    """For whoever looks after the workers: which payload, why, and what to do."""
    log.error(
        "workflow %r (%s) is left to workers that can read it, and tried again in %g s: %s",
        execution.id,
        execution.name,
        AGAIN_SECONDS,
        error,
    )
