"""Options that choose workflows: the same for those that are listed and those that are cancelled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from everstep.cli.durations import duration
from everstep.cli.inputs import json_object
from everstep.errors import UsageError
from everstep.store.infos import Status
from everstep.store.workflows import Filter

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--status", "statuses", multiple=True, metavar="WORD[,WORD]", help=", ".join(Status)
    ),
    click.option("--name", help="Of this workflow function"),
    click.option("--queue", help="On this queue"),
    click.option("--version", help="Pinned to this version of the code"),
    click.option("--id", "prefix", metavar="PREFIX", help="Whose id begins with this"),
    click.option(
        "--attributes", type=json_object, metavar="JSON", help="With all of these attributes"
    ),
    click.option(
        "--since", type=duration, metavar="TIME", help="Created within this time: 30m, 2h, 7d"
    ),
)


def chosen_by(command: F) -> F:
    """--status, --name, --queue, --version, --id, --attributes and --since, for `filter_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def filter_of(
    *,
    statuses: tuple[str, ...],
    name: str | None,
    queue: str | None,
    version: str | None,
    prefix: str | None,
    attributes: dict[str, Any] | None,
    since: timedelta | None,
) -> Filter:
    """What those options say. Raises UsageError for a status that is none."""
    return Filter(
        statuses=_statuses(statuses),
        name=name,
        queue=queue,
        version=version,
        id_prefix=prefix,
        attributes=attributes,
        since=None if since is None else datetime.now(UTC) - since,
    )


def _statuses(words: tuple[str, ...]) -> list[Status] | None:
    given = [word.strip() for text in words for word in text.split(",") if word.strip()]
    if unknown := sorted(set(given) - set(Status)):
        raise UsageError(
            f"there is no status {', '.join(unknown)}. Choose from: {', '.join(Status)}"
        )
    return [Status(word) for word in given] or None
