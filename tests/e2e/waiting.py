"""Waiting for a fact, with a deadline and the last thing seen in the message."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.25


def eventually(
    look: Callable[[], T],
    until: Callable[[T], bool] = bool,
    *,
    within: float = 60,
    what: str | Callable[[], str] = "",
) -> T:
    """Look until `until` holds for what was seen; return it. The test fails after `within` s.

    `what` says what was waited for; as a function it is asked at the end, and may read a log.
    """
    deadline = time.monotonic() + within
    while True:
        seen = look()
        if until(seen):
            return seen
        if time.monotonic() > deadline:
            waited_for = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {waited_for}; last seen: {seen!r}")
        time.sleep(_PAUSE)
