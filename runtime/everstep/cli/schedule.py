"""`everstep schedule`: look at schedules, pause and change them, trigger them, fill in the past."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import click

from everstep.app import App
from everstep.cli import options
from everstep.cli.durations import duration
from everstep.cli.output import print_json, print_rows
from everstep.cli.session import with_client
from everstep.cli.teaching import TaughtGroup
from everstep.client.asynchronous import Client
from everstep.errors import UsageError
from everstep.schedules import CatchUp, Overlap
from everstep.store.schedules import ScheduleInfo

T = TypeVar("T")

_COLUMNS = {
    "name": "SCHEDULE",
    "state": "STATE",
    "cron": "CRON",
    "every": "EVERY",
    "timezone": "ZONE",
    "catch_up": "CATCH-UP",
    "overlap": "OVERLAP",
    "queue": "QUEUE",
    "edited": "EDITED",
    "next_at": "NEXT TICK",
    "last_at": "LAST TICK",
}
_SPARE = ("edited", "queue", "overlap", "catch_up", "last_at", "timezone", "every", "cron")


@click.group(
    cls=TaughtGroup,
    examples=["everstep schedule list", "everstep schedule set report --cron '0 8 * * *'"],
)
def command() -> None:
    """Look at schedules, pause and change them, trigger them, fill in the past."""


@command.command("list", examples=["everstep schedule list -o json"])
@options.database
@options.output()
def list_(*, url: str | None, schema: str | None, style: str) -> None:
    """Schedules, when they tick, and whether they differ from what the code declares."""

    async def ask(client: Client) -> Sequence[ScheduleInfo]:
        return await client.schedules.list()

    rows = with_client(url, schema, ask)
    empty = "there are no schedules yet; workers declare those of their code"
    print_rows(rows, style, _COLUMNS, id_of="name", empty=empty, spare=_SPARE)


@command.command(examples=["everstep schedule pause report"])
@click.argument("names", nargs=-1, required=True, metavar="SCHEDULE…")
@options.database
def pause(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Start nothing more at their ticks. What runs goes on."""
    _each(names, url, schema, lambda client, name: client.schedules.pause(name), "is paused")


@command.command(examples=["everstep schedule resume report"])
@click.argument("names", nargs=-1, required=True, metavar="SCHEDULE…")
@options.database
def resume(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Start workflows again, from the next tick on."""
    _each(names, url, schema, lambda client, name: client.schedules.resume(name), "goes on")


@command.command(
    "set",
    examples=[
        "everstep schedule set report --cron '0 8 * * MON-FRI' --timezone Europe/Paris",
        "everstep schedule set poll --every 30s --overlap skip",
    ],
)
@click.argument("name", metavar="SCHEDULE")
@click.option("--cron", metavar="EXPRESSION", help="Five fields, or six with seconds first")
@click.option("--every", metavar="DURATION", help="An interval instead: 30s, 5m, 2h, 1d")
@click.option("--timezone", metavar="ZONE", help="Of the cron expression, such as Europe/Paris")
@click.option("--catch-up", metavar="POLICY", help="Missed ticks: skip, latest or all:N")
@click.option(
    "--overlap",
    type=click.Choice([str(policy) for policy in Overlap]),
    help="At a tick, while the workflow of the tick before it is open",
)
@click.option("--queue", metavar="QUEUE", help="Where its workflows go")
@options.database
def set_(
    *,
    name: str,
    cron: str | None,
    every: str | None,
    timezone: str | None,
    catch_up: str | None,
    overlap: str | None,
    queue: str | None,
    url: str | None,
    schema: str | None,
) -> None:
    """Change a schedule, until the code declares something else. `everstep schedule reset` takes it back."""
    if all(given is None for given in (cron, every, timezone, catch_up, overlap, queue)):
        raise UsageError("nothing to change: say what, for example --cron '0 8 * * *'")
    interval = None if every is None else duration(every)
    policy = None if catch_up is None else CatchUp.parse(catch_up)

    async def change(client: Client) -> None:
        await client.schedules.set(
            name,
            cron=cron,
            every=interval,
            timezone=timezone,
            catch_up=policy,
            overlap=None if overlap is None else Overlap(overlap),
            queue=queue,
        )

    with_client(url, schema, change)
    click.echo(f"schedule {name} is changed: `everstep schedule list` shows it")


@command.command(examples=["everstep schedule reset report"])
@click.argument("names", nargs=-1, required=True, metavar="SCHEDULE…")
@options.database
def reset(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Take back every change: put in force what the code declares. A pause stays."""
    said = "is as the code declares it"
    _each(names, url, schema, lambda client, name: client.schedules.reset(name), said)


@command.command(examples=["everstep schedule trigger report"])
@click.argument("name", metavar="SCHEDULE")
@options.app
@options.database
def trigger(*, name: str, app: App | None, url: str | None, schema: str | None) -> None:
    """Start its workflow now, paused or not, and print the workflow's id."""

    async def start(client: Client) -> str:
        return await client.schedules.trigger(name)

    click.echo(with_client(url, schema, start, app=app))


@command.command(
    examples=[
        "everstep schedule backfill report --start 2026-05-01 --end 2026-06-01",
        "everstep schedule backfill report --start 3d",
    ]
)
@click.argument("name", metavar="SCHEDULE")
@click.option("--start", required=True, metavar="WHEN", help="2026-05-01T07:00+02:00, or 3d ago")
@click.option("--end", metavar="WHEN", help="The same; up to, not including, this moment [now]")
@options.app
@options.database
@options.output()
def backfill(
    *,
    name: str,
    start: str,
    end: str | None,
    app: App | None,
    url: str | None,
    schema: str | None,
    style: str,
) -> None:
    """Start the workflows of past ticks that have none. A time without an offset is in the schedule's zone."""
    now = datetime.now(UTC)
    span = _moment(start, now), now if end is None else _moment(end, now)

    async def fill(client: Client) -> tuple[Sequence[str], int]:
        done = await client.schedules.backfill(name, *span)
        return done.started, done.existing

    started, existing = with_client(url, schema, fill, app=app)
    match style:
        case "json":
            print_json({"started": started, "existing": existing})
        case "ids":
            click.echo("\n".join(started), nl=bool(started))
        case _:
            click.echo(f"started: {len(started)}, there already: {existing}")


def _moment(text: str, now: datetime) -> datetime:
    """An instant as people write it: ISO 8601, or how long ago."""
    try:
        if re.match(r"\d{4}-", text) is None:
            return now - duration(text)
        return datetime.fromisoformat(text)
    except (ValueError, click.BadParameter):
        raise UsageError(
            f"{text!r} is no date or time: write 2026-05-01, 2026-05-01T07:00+02:00 or 3d"
        ) from None


def _each(
    names: tuple[str, ...],
    url: str | None,
    schema: str | None,
    act: Callable[[Client, str], Awaitable[T]],
    said: str,
) -> None:
    async def change(client: Client) -> None:
        for name in names:
            await act(client, name)
            click.echo(f"schedule {name} {said}")

    with_client(url, schema, change)
