"""`everstep workflow start`: from the command line to a workflow that exists, and its result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from everstep.app import App
from everstep.cli import options
from everstep.cli.durations import duration
from everstep.cli.inputs import checked_input, read_input
from everstep.cli.loading import load_app
from everstep.cli.output import print_json
from everstep.cli.session import with_client
from everstep.cli.start_options import options_of, start_options
from everstep.cli.teaching import Taught
from everstep.client.asynchronous import Client
from everstep.client.handle import Handle
from everstep.client.startable import StartOptions
from everstep.errors import UsageError


@click.command(
    cls=Taught,
    examples=[
        """everstep workflow start app:app checkout --input '{"order": 7}' --wait""",
        "everstep workflow start app:app report --input @report.json --queue slow --delay 2h",
        "everstep workflow start app:app sync --dedup shop-7 --on-duplicate return --timeout 10m",
        """everstep workflow start app:app reindex --input '{"shop": 7}' --debounce shop-7 --debounce-window 5s""",
        """everstep workflow start --name checkout --input '{"order": 7}' --queue checkout""",
    ],
)
@click.argument("target", required=False, metavar="[MODULE:APP")
@click.argument("workflow", required=False, metavar="WORKFLOW]")
@click.option(
    "--name", metavar="WORKFLOW", help="Start by name only, where the code is not at hand"
)
@click.option(
    "--input",
    "given",
    default="{}",
    metavar="JSON|@FILE|-",
    help="Parameters by name, as a JSON object",
)
@start_options
@click.option("--wait", is_flag=True, help="Wait for the result and print it")
@click.option(
    "--wait-timeout", type=duration, metavar="TIME", help="Wait at most so long (exit code 7)"
)
@options.database
def command(
    *,
    target: str | None,
    workflow: str | None,
    name: str | None,
    given: str,
    wait: bool,
    wait_timeout: timedelta | None,
    url: str | None,
    schema: str | None,
    **given_options: Any,
) -> None:
    """Start a workflow and print its id; with --wait its result, as JSON.

    With MODULE:APP and the workflow's name the input is checked against its parameters first. By --name
    alone nothing is checked: that is for code that is not at hand.
    """
    if wait_timeout is not None and not wait:
        raise UsageError(
            "--wait-timeout is for --wait. To limit the workflow itself, write --timeout."
        )
    app = _app_of(target, workflow, name)
    chosen = options_of(**given_options)
    input_ = read_input(given)
    if app is not None:
        definition = app.workflow_named(str(workflow))
        input_ = checked_input(definition, input_, app.max_payload)
        chosen = {"queue": definition.queue, **chosen}
    called = workflow or name or ""

    async def begin(client: Client) -> tuple[Handle[Any], Any]:
        handle = await client.start_named(called, input_, **chosen)
        _say_started(handle, chosen, wait=wait)
        return handle, await handle.result(wait_timeout) if wait else None

    _, result = with_client(url, schema, begin, app=app)
    if wait:
        print_json(result)


def _app_of(target: str | None, workflow: str | None, name: str | None) -> App | None:
    if name is not None:
        if target is not None:
            raise UsageError("give MODULE:APP and a workflow, or --name, not both.")
        return None
    if target is None or workflow is None:
        raise UsageError(
            "which workflow? Write `everstep workflow start MODULE:APP WORKFLOW`, or --name WORKFLOW."
        )
    return load_app(target)


def _say_started(handle: Handle[Any], chosen: StartOptions, *, wait: bool) -> None:
    if not handle.created:
        click.echo(f"note: workflow {handle.id} {_why(handle, chosen)}", err=True)
    # Standard output holds one thing: the result if that is waited for, else the id.
    click.echo(f"workflow {handle.id}" if wait else handle.id, err=wait)


def _why(handle: Handle[Any], chosen: StartOptions) -> str:
    """What became of a start that made no new workflow."""
    if "debounce" in chosen:
        return "waits already, and has this input now"
    if handle.id != chosen.get("id"):
        return "is open with this deduplication key: nothing was started"
    if chosen.get("on_existing") == "restart":
        return "was there already; if it had failed, it begins anew"
    return "was there already, with the same input"
