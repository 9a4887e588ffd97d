"""The options of a start on the command line: those of StartOptions, by the same names and in the same order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import click

from everstep.cli.durations import duration, instant
from everstep.cli.inputs import json_object
from everstep.client.debounce import Debounce
from everstep.client.startable import StartOptions
from everstep.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--id", help="Idempotency key: the same id and input is the same workflow"),
    click.option("--queue", help="Instead of the workflow's own queue"),
    click.option("--partition", help="Whose it is, of those that share the queue"),
    click.option(
        "--priority", type=click.IntRange(0, 3), default=1, show_default=True, help="0 is first"
    ),
    click.option("--delay", type=duration, metavar="TIME", help="Begin later: 30, 5m, 2h, 3d"),
    click.option("--run-at", type=instant, metavar="WHEN", help="Begin then: 2026-05-01T07:00Z"),
    click.option("--attributes", type=json_object, metavar="JSON", help="An object to filter by"),
    click.option("--version", help="The version of the code that it is pinned to from the start"),
    click.option("--timeout", type=duration, metavar="TIME", help="Cancel it after so long"),
    click.option("--deadline", type=instant, metavar="WHEN", help="Cancel it then"),
    click.option("--dedup", metavar="KEY", help="At most one open workflow of a queue has this"),
    click.option(
        "--on-duplicate",
        type=click.Choice(["reject", "return"]),
        help="What a second start with --dedup gets: an error [default], or the first one's id",
    ),
    click.option(
        "--on-existing",
        type=click.Choice(["return", "reject", "restart"]),
        help="What an earlier workflow's --id gets: that one [default], an error, or a new attempt if it failed",
    ),
    click.option(
        "--debounce",
        metavar="KEY",
        help="Starts with the same key in a row are one: the last input runs",
    ),
    click.option(
        "--debounce-window",
        type=duration,
        metavar="TIME",
        help="It begins after so long without another",
    ),
    click.option(
        "--debounce-max-wait",
        type=duration,
        metavar="TIME",
        help="And at the latest so long after the first",
    ),
)


def start_options(command: F) -> F:
    """All of them, for `options_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of(
    *,
    debounce: str | None,
    debounce_window: timedelta | None,
    debounce_max_wait: timedelta | None,
    **given: Any,
) -> StartOptions:
    """What those options say. Raises UsageError for a debounce that is only half there."""
    chosen = {name: value for name, value in given.items() if value is not None}
    quiet = _debounce_of(debounce, debounce_window, debounce_max_wait)
    return cast("StartOptions", chosen if quiet is None else {**chosen, "debounce": quiet})


def _debounce_of(
    key: str | None, window: timedelta | None, max_wait: timedelta | None
) -> Debounce | None:
    if key is not None and window is not None:
        return Debounce(key, window, max_wait)
    if key is None and window is None and max_wait is None:
        return None
    raise UsageError("--debounce KEY and --debounce-window TIME go together.")
