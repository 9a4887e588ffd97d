"""Lengths of time as users give them: a timedelta, or a number of seconds."""

from __future__ import annotations

from datetime import timedelta

from everstep.errors import UsageError

LONGEST_SECONDS = 100 * 366 * 86_400


def seconds_of(duration: timedelta | float, what: str) -> float:
    """A duration in seconds. Raises UsageError unless it is between 0 and 100 years."""
    seconds = _seconds(duration, what)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise UsageError(f"{what} is between 0 seconds and 100 years, not {seconds:,.15g} seconds")
    return seconds


def patience_of(timeout: timedelta | float | None) -> float | None:
    """How long a caller is ready to wait, in seconds; None: for ever. What is over already is no mistake."""
    return None if timeout is None else _seconds(timeout, "a timeout")


def _seconds(duration: timedelta | float, what: str) -> float:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, (int, float)):
        return float(duration)
    raise UsageError(f"{what} is a timedelta or a number of seconds, not {duration!r}")
