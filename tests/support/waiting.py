"""Waiting for a condition that only the database, or another process, can tell of."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

BLOCKED_BY = "SELECT count(*) FROM pg_stat_activity WHERE %s::int = ANY (pg_blocking_pids(pid))"
"""How many sessions wait for what this one holds, whatever others wait for (an autovacuum, say)."""


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    *,
    within: float = 30.0,
    what: str = "",
    pause: float = 0.01,
) -> T:
    """The first true value of `condition`, asked again and again. Fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or inspect.getsource(condition)}")
        await asyncio.sleep(pause)


def eventually_now(
    condition: Callable[[], T], *, within: float = 30.0, what: str = "", pause: float = 0.01
) -> T:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what or inspect.getsource(condition)}")
        time.sleep(pause)
    return value
