"""Options that several commands share. The environment is read by settings.py alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from everstep.cli.loading import load_app

F = TypeVar("F", bound=Callable[..., Any])


def database(command: F) -> F:
    """--database and --schema, given to the command as `url` and `schema`, None where not given."""
    schema = click.option(
        "--schema",
        metavar="NAME",
        help="Schema of the engine's tables (EVERSTEP_SCHEMA) [everstep]",
    )
    url = click.option(
        "--database",
        "url",
        metavar="URL",
        help="Postgres connection string (EVERSTEP_DATABASE_URL)",
    )
    return url(schema(command))


def app(command: F) -> F:
    """--app, given to the command as `app`: the App whose codec and limit its client has, or None."""
    return click.option(
        "--app",
        type=load_app,
        metavar="MODULE:APP",
        help="Read and write payloads with the codec of this App",
    )(command)


def logging(command: F) -> F:
    """--log-format and --log-level."""
    style = click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="One line per event for people, or one JSON object",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
    )
    return style(level(command))


def output(*, ids: bool = True) -> Callable[[F], F]:
    """-o table|json|ids, given to the command as `style`."""
    styles = ["table", "json", "ids"] if ids else ["table", "json"]
    return click.option(
        "-o",
        "--output",
        "style",
        type=click.Choice(styles),
        default="table",
        show_default=True,
        help="For people, for programs" + (", or only ids for other commands" if ids else ""),
    )
