"""What a workflow may call besides its steps, and gets the same answer to on every replay."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import msgspec

from everstep.codec import JSON
from everstep.context import Branch, branch_here
from everstep.definitions import PlainStep, Step
from everstep.errors import UsageError
from everstep.store.models import Checkpoint, CheckpointKind
from everstep.waiting import wait_until

P = ParamSpec("P")
R = TypeVar("R")


def sleep(duration: timedelta | float) -> Coroutine[Any, Any, None]:
    """Wait, durably. Anything longer than a moment parks: the workflow leaves the worker and costs a row.

    `duration` in seconds or as a timedelta, counted from when the database first recorded the sleep: a
    crash does not begin it anew. Never early; late by up to about a second, when it had to be claimed again.
    """
    branch = branch_here("everstep.sleep()")
    if branch.execution.plain:
        raise UsageError(
            "this workflow is a plain function, and nobody awaits everstep.sleep() in it. "
            "Call everstep.sync.sleep(…)"
        )
    return begin_sleep(branch, duration)


def begin_sleep(branch: Branch, duration: timedelta | float) -> Coroutine[Any, Any, None]:
    """Take the position of a sleep now; the coroutine sleeps, on the worker's event loop."""
    seconds = _seconds(duration)
    return _sleep(branch, branch.next_position(), seconds)


async def _sleep(branch: Branch, position: tuple[str, int], seconds: float) -> None:
    execution = branch.execution
    row = execution.recorded(position, CheckpointKind.SLEEP, "sleep")
    if row is None or row.recorded_at is None:
        row = sleep_row(position, seconds)
        recorded_at = await execution.record(row).wait()
        execution.check()
    else:
        assert row.output is not None
        recorded_at, seconds = row.recorded_at, msgspec.json.decode(row.output)["seconds"]
    await wait_until(execution, position, recorded_at + timedelta(seconds=seconds), "sleep")


def sleep_row(position: tuple[str, int], seconds: float) -> Checkpoint:
    """The checkpoint of a sleep: its length; the wake-up is that much after the database recorded it."""
    return Checkpoint(
        branch=position[0],
        seq=position[1],
        kind=CheckpointKind.SLEEP,
        name="sleep",
        attempts=1,
        codec=JSON,
        output=msgspec.json.encode({"seconds": seconds}),
        error=None,
    )


def run(
    step: Step[P, R] | PlainStep[P, R], *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, R]:
    """Call a step of either colour from an async workflow; a plain function runs in a thread."""
    if isinstance(step, PlainStep):
        return step.in_thread(*args, **kwargs)
    if isinstance(step, Step):
        return step(*args, **kwargs)
    raise UsageError(
        f"everstep.run() takes a step, not {step!r}: decorate the function with @app.step"
    )


def _seconds(duration: timedelta | float) -> float:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= 100 * 366 * 86_400:
        raise UsageError(f"a sleep is between 0 seconds and 100 years, not {duration!r}")
    return seconds
