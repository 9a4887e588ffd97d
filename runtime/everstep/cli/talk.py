"""`everstep workflow send`, `events` and `stream`: what goes into a workflow, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from everstep.app import App
from everstep.cli import options
from everstep.cli.output import print_rows
from everstep.cli.session import with_client
from everstep.cli.teaching import Taught
from everstep.client.asynchronous import Client
from everstep.errors import UsageError
from everstep.store.infos import EventInfo

_EVENTS = {"key": "EVENT", "value": "VALUE", "set_at": "SET"}


@click.command(
    cls=Taught,
    examples=[
        """everstep workflow send loan-1 decision '"yes"' --key form-77""",
        """everstep workflow send order-7 address '{"street": "Elm St 5"}'""",
    ],
)
@click.argument("workflow_id", metavar="ID")
@click.argument("topic")
@click.argument("value")
@click.option("--key", metavar="TEXT", help="Idempotency key: a repeated send changes nothing")
@options.app
@options.database
def send(
    *,
    workflow_id: str,
    topic: str,
    value: str,
    key: str | None,
    app: App | None,
    url: str | None,
    schema: str | None,
) -> None:
    """Send a message to a workflow. VALUE is JSON."""
    try:
        message = msgspec.json.decode(value)
    except msgspec.DecodeError:
        quoted = msgspec.json.encode(value).decode()
        raise UsageError(
            f"{value!r} is not JSON. A text has quotes of its own inside those of the shell: '{quoted}'"
        ) from None

    async def ask(client: Client) -> bool:
        return await client.send(workflow_id, message, topic, key=key)

    if not with_client(url, schema, ask, app=app):
        raise UsageError(f"{workflow_id} has finished: it receives no messages any more")
    click.echo(f"{workflow_id} has the message")


@click.command(
    cls=Taught,
    examples=["everstep workflow events order-7", "everstep workflow events order-7 -o json"],
)
@click.argument("workflow_id", metavar="ID")
@options.app
@options.database
@options.output(ids=False)
def events(
    *, workflow_id: str, app: App | None, url: str | None, schema: str | None, style: str
) -> None:
    """What a workflow has published under names, the latest value of each."""

    async def ask(client: Client) -> Sequence[EventInfo]:
        return await client.events(workflow_id)

    rows = with_client(url, schema, ask, app=app)
    print_rows(rows, style, _EVENTS, id_of="key", empty="no event is published yet")


@click.command(cls=Taught, examples=["everstep workflow stream import-3 progress --follow"])
@click.argument("workflow_id", metavar="ID")
@click.argument("key")
@click.option("-f", "--follow", is_flag=True, help="Go on until the stream, or the workflow, ends")
@options.app
@options.database
def stream(
    *,
    workflow_id: str,
    key: str,
    follow: bool,
    app: App | None,
    url: str | None,
    schema: str | None,
) -> None:
    """The values of a workflow's stream, a line of JSON each."""

    async def read(client: Client) -> None:
        async for value in client.read_stream(workflow_id, key, follow=follow):
            click.echo(msgspec.json.encode(value))

    with_client(url, schema, read, app=app)
