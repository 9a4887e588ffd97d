"""`everstep queue`: look at queues, pause and resume them."""

from __future__ import annotations

import click

from everstep.cli import options
from everstep.cli.output import print_rows
from everstep.cli.session import with_connection
from everstep.cli.teaching import TaughtGroup
from everstep.errors import UsageError
from everstep.store.connection import Connection
from everstep.store.control import Control, QueueInfo

_COLUMNS = {
    "queue": "QUEUE",
    "paused": "PAUSED",
    "ready": "READY",
    "delayed": "DELAYED",
    "running": "RUNNING",
    "waiting": "WAITING",
    "oldest_ready_at": "OLDEST READY SINCE",
    "max_running": "LIMIT",
}


@click.group(
    cls=TaughtGroup, examples=["everstep queue list", "everstep queue pause checkout reports"]
)
def command() -> None:
    """Look at queues, pause and resume them."""


@command.command("list", examples=["everstep queue list -o json"])
@options.database
@options.output()
def list_(*, url: str | None, schema: str | None, style: str) -> None:
    """Queues, and how many open workflows are where on them."""

    async def ask(connection: Connection, schema: str) -> list[QueueInfo]:
        return await Control(schema).queues(connection)

    rows = with_connection(url, schema, ask)
    print_rows(rows, style, _COLUMNS, id_of="queue", empty="there are no queues yet")


@command.command(examples=["everstep queue pause checkout"])
@click.argument("names", nargs=-1, required=True, metavar="QUEUE…")
@options.database
def pause(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Claim nothing more from queues. What runs goes on; starting workflows goes on."""
    _set(names, url, schema, paused=True)


@command.command(examples=["everstep queue resume checkout"])
@click.argument("names", nargs=-1, required=True, metavar="QUEUE…")
@options.database
def resume(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Claim from queues again."""
    _set(names, url, schema, paused=False)


def _set(names: tuple[str, ...], url: str | None, schema: str | None, *, paused: bool) -> None:
    async def change(connection: Connection, schema: str) -> list[str]:
        control = Control(schema)
        known = {info.queue for info in await control.queues(connection)}
        if unknown := sorted(set(names) - known):
            raise UsageError(
                f"there is no queue named {', '.join(unknown)}. "
                f"Choose from: {', '.join(sorted(known)) or 'none yet'}"
            )
        return await control.pause(connection, names, paused=paused)

    for name in sorted(with_connection(url, schema, change)):
        click.echo(f"queue {name} {'rests' if paused else 'goes on'}")
