"""`everstep queue`: look at queues, limit them, pause and resume them."""

from __future__ import annotations

from typing import Any

import click

from everstep.cli import options
from everstep.cli.output import print_rows
from everstep.cli.rates import count, rate
from everstep.cli.session import with_connection
from everstep.cli.teaching import TaughtGroup
from everstep.errors import UsageError
from everstep.queues import Rate
from everstep.store.connection import Connection
from everstep.store.queues import QueueInfo, Queues

_COLUMNS = {
    "queue": "QUEUE",
    "paused": "PAUSED",
    "ready": "READY",
    "delayed": "DELAYED",
    "running": "RUNNING",
    "waiting": "WAITING",
    "oldest_ready_at": "OLDEST READY SINCE",
    "max_running": "LIMIT",
    "rate": "RATE",
    "worker_concurrency": "PER WORKER",
    "partition_max_running": "PER PARTITION",
    "partition_rate": "PARTITION RATE",
}


@click.group(
    cls=TaughtGroup,
    examples=[
        "everstep queue list",
        "everstep queue set checkout --max-running 20 --rate '100/s burst 20'",
        "everstep queue pause checkout reports",
    ],
)
def command() -> None:
    """Look at queues, limit them, pause and resume them."""


@command.command("list", examples=["everstep queue list -o json"])
@options.database
@options.output()
def list_(*, url: str | None, schema: str | None, style: str) -> None:
    """Queues, their limits, and how many open workflows are where on them."""

    async def ask(connection: Connection, schema: str) -> list[QueueInfo]:
        return await Queues(schema).list(connection)

    rows = with_connection(url, schema, ask)
    print_rows(rows, style, _COLUMNS, id_of="queue", empty="there are no queues yet")


@command.command(
    "set",
    examples=[
        "everstep queue set checkout --max-running 20",
        "everstep queue set mail --rate '100/s burst 20' --worker-concurrency 5",
        "everstep queue set imports --partition-max-running 2 --max-running none",
    ],
)
@click.argument("name", metavar="QUEUE")
@click.option("--worker-concurrency", type=count, metavar="N", help="So many per worker")
@click.option("--max-running", type=count, metavar="N", help="So many run at a time, everywhere")
@click.option("--rate", type=rate, metavar="RATE", help="So fast: 100/s, 10/30s, '100/s burst 20'")
@click.option("--partition-max-running", type=count, metavar="N", help="So many per partition")
@click.option("--partition-rate", type=rate, metavar="RATE", help="So fast per partition")
@options.database
@click.pass_context
def set_(
    context: click.Context, /, *, name: str, url: str | None, schema: str | None, **_: object
) -> None:
    """Change limits while everything runs; `none` lifts one. Workers notice with their next look.

    Holds until the code's declaration of the queue changes. What runs already goes on.
    """
    change = _change(context)
    if not change:
        raise UsageError(
            "nothing to set: give a limit, for example --max-running 20, or --max-running none"
        )

    async def ask(connection: Connection, schema: str) -> QueueInfo:
        queues = Queues(schema)
        await _check_known(queues, connection, name)
        await queues.set(connection, name, change)
        return next(info for info in await queues.list(connection) if info.queue == name)

    info = with_connection(url, schema, ask)
    limits = {
        title: getattr(info, column) for column, title in _COLUMNS.items() if column in change
    }
    told = ", ".join(f"{title.lower()} {value or 'none'}" for title, value in limits.items())
    click.echo(f"queue {name}: {told}")


@command.command(examples=["everstep queue pause checkout"])
@click.argument("names", nargs=-1, required=True, metavar="QUEUE…")
@options.database
def pause(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Claim nothing more from queues. What runs goes on; starting workflows goes on."""
    _pause(names, url, schema, paused=True)


@command.command(examples=["everstep queue resume checkout"])
@click.argument("names", nargs=-1, required=True, metavar="QUEUE…")
@options.database
def resume(*, names: tuple[str, ...], url: str | None, schema: str | None) -> None:
    """Claim from queues again."""
    _pause(names, url, schema, paused=False)


def _pause(names: tuple[str, ...], url: str | None, schema: str | None, *, paused: bool) -> None:
    async def ask(connection: Connection, schema: str) -> list[str]:
        queues = Queues(schema)
        await _check_known(queues, connection, *names)
        return list(await queues.pause(connection, names, paused=paused))

    for name in sorted(with_connection(url, schema, ask)):
        click.echo(f"queue {name} {'is paused' if paused else 'goes on'}")


async def _check_known(queues: Queues, connection: Connection, *names: str) -> None:
    known = {info.queue for info in await queues.list(connection)}
    if unknown := sorted(set(names) - known):
        raise UsageError(
            f"there is no queue named {', '.join(unknown)}. "
            f"Choose from: {', '.join(sorted(known)) or 'none yet'}"
        )


def _change(context: click.Context) -> dict[str, Any]:
    """The limits that were given; None where one is to be lifted, which is not the same as not given."""
    return {
        name: value.declaration() if isinstance(value, Rate) else value
        for name, value in context.params.items()
        if name in _COLUMNS
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
