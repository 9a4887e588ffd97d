"""Limits on the command line: counts, and rates as `everstep queue list` shows them: 100/s, 10/30s burst 5."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from everstep.cli.durations import duration
from everstep.errors import UsageError
from everstep.queues import Rate

NONE = "none"
_RATE = re.compile(r"(\d+)\s*/\s*(\S+?)(?:\s+burst\s+(\d+))?\Z")


def count(text: str) -> int | None:
    """A count of at least 1; `none` lifts a limit. Raises click.BadParameter."""
    if text == NONE:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 2_147_483_647:
        raise click.BadParameter(
            f"{text!r} is not a whole number from 1 to 2147483647, nor {NONE!r}"
        )
    return int(text)


def rate(text: str) -> Rate | None:
    """A rate; `none` lifts it. Raises click.BadParameter."""
    if text == NONE:
        return None
    found = _RATE.match(text.strip())
    if found is None:
        raise click.BadParameter(
            f"{text!r} is not a rate: write 100/s, 10/30s, '100/s burst 20', or {NONE}"
        )
    starts, per, burst = found.groups()
    try:
        return Rate(int(starts), _per(per), burst=int(burst or 1))
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _per(text: str) -> timedelta:
    return duration(text if text[0].isdigit() else f"1{text}")
