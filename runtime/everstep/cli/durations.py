"""Durations and instants on the command line: 30, 45s, 5m, 2h, 3d; 2026-05-01T07:00Z."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import click

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LONGEST = timedelta(days=36_600)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\Z")


def duration(text: str) -> timedelta:
    """A duration as people write it; a bare number is seconds. Raises click.BadParameter."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a duration: write 30, 45s, 5m, 2h or 3d")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST.total_seconds():
        raise click.BadParameter(f"{text!r} is longer than anything lasts: at most 36600d")
    return timedelta(seconds=seconds)


def instant(text: str) -> datetime:
    """An instant in ISO 8601, with its offset. Raises click.BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no instant: write 2026-05-01T07:00Z") from None
    if found.tzinfo is None:
        local = found.isoformat(timespec="minutes")
        raise click.BadParameter(f"{text!r} has no offset: write {local}Z, or {local}+02:00")
    return found
