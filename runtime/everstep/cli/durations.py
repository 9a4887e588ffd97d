"""Durations on the command line: 30, 45s, 5m, 2h, 3d."""

from __future__ import annotations

import re
from datetime import timedelta

import click

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\Z")


def duration(text: str) -> timedelta:
    """A duration as people write it; a bare number is seconds. Raises click.BadParameter."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a duration: write 30, 45s, 5m, 2h or 3d")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than anything lasts") from None
