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
from everstep.cli.teaching import Taught
from everstep.client.asynchronous import Client
from everstep.client.debounce import Debounce
from everstep.client.handle import Handle
from everstep.definitions import DEFAULT_QUEUE
from everstep.errors import UsageError


@click.command(
    cls=Taught,
    examples=[
        """everstep workflow start app:app checkout --input '{"order": 7}' --wait""",
        "everstep workflow start app:app report --input @report.json --queue slow --delay 2h",
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
@click.option(
    "--id", "workflow_id", help="Idempotency key: the same id and input is the same workflow"
)
@click.option("--queue", help="Instead of the workflow's own queue")
@click.option(
    "--priority", type=click.IntRange(0, 3), default=1, show_default=True, help="0 is first"
)
@click.option("--partition", help="Whose it is, of those that share the queue")
@click.option(
    "--delay", type=duration, default="0", metavar="TIME", help="Begin later: 30, 5m, 2h, 3d"
)
@click.option(
    "--debounce",
    metavar="KEY",
    help="Starts with the same key in a row are one: the last input runs",
)
@click.option(
    "--debounce-window",
    type=duration,
    metavar="TIME",
    help="It begins after so long without another",
)
@click.option(
    "--debounce-max-wait",
    type=duration,
    metavar="TIME",
    help="And at the latest so long after the first",
)
@click.option("--wait", is_flag=True, help="Wait for the result and print it")
@click.option("--timeout", type=duration, metavar="TIME", help="Wait at most so long (exit code 7)")
@options.database
def command(
    *,
    target: str | None,
    workflow: str | None,
    name: str | None,
    given: str,
    workflow_id: str | None,
    queue: str | None,
    priority: int,
    partition: str | None,
    delay: timedelta,
    debounce: str | None,
    debounce_window: timedelta | None,
    debounce_max_wait: timedelta | None,
    wait: bool,
    timeout: timedelta | None,
    url: str | None,
    schema: str | None,
) -> None:
    """Start a workflow and print its id; with --wait its result, as JSON.

    With MODULE:APP and the workflow's name the input is checked against its parameters first. By --name
    alone nothing is checked: that is for code that is not at hand.
    """
    app = _app_of(target, workflow, name)
    quiet = _debounce_of(debounce, debounce_window, debounce_max_wait)
    input_ = read_input(given)
    if app is not None:
        definition = app.workflow_named(str(workflow))
        input_ = checked_input(definition, input_, app.max_payload)
        queue = queue or definition.queue
    chosen = workflow or name or ""

    async def begin(client: Client) -> tuple[Handle[Any], Any]:
        handle = await client.start_named(
            chosen,
            input_,
            id=workflow_id,
            queue=queue or DEFAULT_QUEUE,
            priority=priority,
            partition=partition,
            delay=delay,
            debounce=quiet,
        )
        _say_started(handle, wait=wait, debounced=quiet is not None)
        return handle, await handle.result(timeout) if wait else None

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


def _debounce_of(
    key: str | None, window: timedelta | None, max_wait: timedelta | None
) -> Debounce | None:
    if key is not None and window is not None:
        return Debounce(key, window, max_wait)
    if key is None and window is None and max_wait is None:
        return None
    raise UsageError("--debounce KEY and --debounce-window TIME go together.")


def _say_started(handle: Handle[Any], *, wait: bool, debounced: bool) -> None:
    if not handle.created and debounced:
        click.echo(f"note: workflow {handle.id} waits already, and has this input now", err=True)
    elif not handle.created:
        click.echo(f"note: workflow {handle.id} was there already, with the same input", err=True)
    # Standard output holds one thing: the result if that is waited for, else the id.
    click.echo(f"workflow {handle.id}" if wait else handle.id, err=wait)
