"""`everstep workflow`: start workflows, look at them, talk with them, wait for them, stop them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

import click

from everstep.app import App
from everstep.cli import cancel, options, start, talk
from everstep.cli.choosing import chosen_by, filter_of
from everstep.cli.durations import duration
from everstep.cli.output import print_facts, print_json, print_rows
from everstep.cli.session import with_client
from everstep.cli.teaching import TaughtGroup
from everstep.client.asynchronous import Client
from everstep.errors import UnknownWorkflowError
from everstep.store.infos import StepInfo, WorkflowInfo

_WORKFLOWS = {
    "id": "ID",
    "name": "NAME",
    "status": "STATUS",
    "queue": "QUEUE",
    "version": "VERSION",
    "created_at": "CREATED",
    "finished_at": "FINISHED",
    "error_message": "ERROR",
}
_STEPS = {
    "branch": "BRANCH",
    "seq": "STEP",
    "name": "NAME",
    "kind": "KIND",
    "status": "STATUS",
    "attempts": "ATTEMPTS",
    "duration": "TOOK",
    "recorded_at": "RECORDED",
    "output": "OUTPUT",
    "error_message": "ERROR",
}


_SPARE_OF_WORKFLOWS = ("version", "queue", "finished_at", "created_at")
_SPARE_OF_STEPS = ("kind", "recorded_at", "attempts", "duration")


@click.group(
    cls=TaughtGroup,
    examples=[
        """everstep workflow start app:app checkout --input '{"order": 7}' --id order-7 --wait""",
        "everstep workflow list --status failed --since 1d",
        "everstep workflow cancel --name checkout --status queued",
    ],
)
def command() -> None:
    """Start workflows, look at them, wait for them, stop them."""


command.add_command(start.command, "start")
command.add_command(cancel.command, "cancel")
for verb in (talk.send, talk.events, talk.stream):
    command.add_command(verb)


@command.command(
    "list", examples=["everstep workflow list --name checkout --status running,waiting"]
)
@chosen_by
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@options.app
@options.database
@options.output()
def list_(
    *,
    limit: int,
    app: App | None,
    url: str | None,
    schema: str | None,
    style: str,
    **chosen_by: Any,
) -> None:
    """Workflows, newest first."""
    chosen = filter_of(**chosen_by)

    async def ask(client: Client) -> Sequence[WorkflowInfo]:
        return await client.list(chosen, limit=limit)

    rows = with_client(url, schema, ask, app=app)
    print_rows(
        rows,
        style,
        _WORKFLOWS,
        id_of="id",
        empty="no workflow matches",
        spare=_SPARE_OF_WORKFLOWS,
    )
    if style == "table" and len(rows) == limit:
        click.echo(f"the newest {limit}; --limit shows more", err=True)


@command.command(
    examples=[
        "everstep workflow get order-7",
        "everstep workflow get order-7 -o json",
        "everstep workflow get visit-1 --app app:app",
    ]
)
@click.argument("workflow_id", metavar="ID")
@options.app
@options.database
@options.output(ids=False)
def get(
    *, workflow_id: str, app: App | None, url: str | None, schema: str | None, style: str
) -> None:
    """One workflow: where it stands, its input, its result or error."""

    async def ask(client: Client) -> WorkflowInfo | None:
        return await client.get(workflow_id)

    info = with_client(url, schema, ask, app=app)
    if info is None:
        raise _unknown(workflow_id)
    if style == "json":
        print_json(info)
    else:
        print_facts(
            {field.name.replace("_", " "): getattr(info, field.name) for field in fields(info)}
        )


@command.command(examples=["everstep workflow steps order-7"])
@click.argument("workflow_id", metavar="ID")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@options.app
@options.database
@options.output(ids=False)
def steps(
    *,
    workflow_id: str,
    limit: int,
    app: App | None,
    url: str | None,
    schema: str | None,
    style: str,
) -> None:
    """The recorded steps of a workflow, in order."""

    async def ask(client: Client) -> Sequence[StepInfo]:
        found = await client.steps(workflow_id, limit=limit)
        if not found and await client.get(workflow_id) is None:
            raise _unknown(workflow_id)
        return found

    rows = with_client(url, schema, ask, app=app)
    # A generation is a column of the few workflows that have one.
    columns = {"generation": "GENERATION", **_STEPS} if any(r.generation for r in rows) else _STEPS
    empty = "no step is recorded yet"
    print_rows(rows, style, columns, id_of="seq", empty=empty, spare=_SPARE_OF_STEPS)


@command.command(examples=["everstep workflow result order-7 --timeout 5m"])
@click.argument("workflow_id", metavar="ID")
@click.option("--timeout", type=duration, metavar="TIME", help="Wait at most so long (exit code 7)")
@options.app
@options.database
def result(
    *,
    workflow_id: str,
    timeout: timedelta | None,
    app: App | None,
    url: str | None,
    schema: str | None,
) -> None:
    """Wait for a workflow and print its result as JSON."""

    async def ask(client: Client) -> object:
        return await client.handle_named(workflow_id).result(timeout)

    print_json(with_client(url, schema, ask, app=app))


def _unknown(workflow_id: str) -> UnknownWorkflowError:
    return UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
