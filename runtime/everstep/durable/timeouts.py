"""Time limits as workflows say them: for a block, or for one thing that is awaited."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from everstep.branch import Branch
from everstep.context import awaiting_branch, branch_here
from everstep.durable.limits import Timeout
from everstep.durations import seconds_of
from everstep.errors import UsageError

T = TypeVar("T")


def timeout(delay: timedelta | float) -> Timeout:
    """A time limit for a block: `async with everstep.timeout(60): …`, which raises TimeoutError past it.

    Counted from when the database first recorded it. The block may wait parked, for days. What runs in it then is
    cancelled as by asyncio.timeout. In a step, use asyncio.timeout.
    """
    return Timeout(_branch("everstep.timeout()"), seconds_of(delay, "a timeout"))


async def wait_for(awaitable: Awaitable[T], timeout: timedelta | float | None) -> T:  # noqa: ASYNC109
    """As asyncio.wait_for, with a recorded timer: `await everstep.wait_for(child(order), timedelta(days=2))`."""
    try:
        if timeout is None:
            return await awaitable
        async with Timeout(_branch("everstep.wait_for()"), seconds_of(timeout, "a timeout")):
            return await awaitable
    finally:
        if inspect.iscoroutine(awaitable):
            awaitable.close()  # that it was never awaited, if so, is no news


def _branch(what: str) -> Branch:
    if branch_here(what).execution.plain:
        raise UsageError(
            f"{what} cannot stop the thread of a plain workflow. Give recv() and get_event() a timeout=, a child a "
            f"deadline, or write the workflow as `async def`"
        )
    return awaiting_branch(what)
