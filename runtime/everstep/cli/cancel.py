"""`everstep workflow cancel`: by id, or all that match."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from everstep.cli import options
from everstep.cli.choosing import chosen_by, filter_of
from everstep.cli.session import with_client
from everstep.cli.teaching import Taught
from everstep.client.asynchronous import Client
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.store.infos import Status
from everstep.store.workflows import Filter

_OPEN = (Status.QUEUED, Status.WAITING, Status.RUNNING)


@click.command(
    cls=Taught,
    examples=[
        "everstep workflow cancel order-7",
        "everstep workflow cancel --name checkout --status queued,waiting",
        "everstep workflow cancel --queue imports --since 2h --yes",
    ],
)
@click.argument("workflow_ids", nargs=-1, metavar="[ID…]")
@chosen_by
@click.option("--children/--no-children", default=True, show_default=True, help="Theirs as well")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before cancelling all that match")
@options.database
def command(
    *,
    workflow_ids: tuple[str, ...],
    children: bool,
    yes: bool,
    url: str | None,
    schema: str | None,
    **chosen: Any,
) -> None:
    """Stop workflows: at once if they are not running, else within a second or so.

    Give ids, or options that choose among those that have not finished.
    """
    given = any(value not in (None, ()) for value in chosen.values())
    if bool(workflow_ids) is given:
        raise UsageError(
            "say which workflows to cancel: their ids, or what they have in common (--name, --queue, --status, …), "
            "and not both"
        )
    if given:
        _cancel_matching(filter_of(**chosen), url, schema, children=children, yes=yes)
        return

    async def ask(client: Client) -> None:
        unknown: list[str] = []
        for id_ in workflow_ids:
            try:
                told = await client.cancel(id_, children=children)
            except UnknownWorkflowError:
                # The others are to stop all the same.
                unknown.append(repr(id_))
                continue
            click.echo(f"{id_} {'is cancelled' if told else 'had finished already'}")
        if unknown:
            raise UnknownWorkflowError(f"there is no workflow with id {', '.join(unknown)}")

    with_client(url, schema, ask)


def _cancel_matching(
    chosen: Filter, url: str | None, schema: str | None, *, children: bool, yes: bool
) -> None:
    wanted = _OPEN if chosen.statuses is None else chosen.statuses
    if done := sorted(set(wanted) - set(_OPEN)):
        raise UsageError(
            f"what is {' or '.join(done)} has finished. Choose from: {', '.join(_OPEN)}"
        )
    ids = _matching(replace(chosen, statuses=wanted), url, schema)
    if not ids:
        click.echo("no workflow matches", err=True)
        return
    count = f"{len(ids)} workflow{'s' if len(ids) > 1 else ''}"
    if not yes:
        _confirm(f"{count}, for example {ids[0]}. Cancel?")

    async def cancel(client: Client) -> int:
        return sum([await client.cancel(id_, children=children) for id_ in ids])

    told = with_client(url, schema, cancel)
    rest = len(ids) - told
    click.echo(f"{told} cancelled" + (f", {rest} had finished already" if rest else ""))


def _matching(chosen: Filter, url: str | None, schema: str | None) -> Sequence[str]:
    async def ask(client: Client) -> Sequence[str]:
        return [info.id for info in await client.list(chosen, limit=100_000)]

    return with_client(url, schema, ask)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer: add --yes")
    click.confirm(question, abort=True)
