"""`everstep doctor`: findings about a database, and exit code 6 if one of them is an error."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import click

from everstep.cli import options
from everstep.cli.durations import duration
from everstep.cli.failures import ExitCode
from everstep.cli.output import print_facts, print_json
from everstep.cli.teaching import Taught
from everstep.doctor import Finding, Severity, examine
from everstep.settings import Settings


@click.command(
    cls=Taught,
    examples=[
        "everstep doctor",
        "everstep doctor --all",
        "everstep doctor -o json | jq '.[].what'",
    ],
)
@click.option(
    "--since",
    type=duration,
    default="1d",
    show_default=True,
    metavar="TIME",
    help="Of finished workflows, check those that finished within this time",
)
@click.option(
    "--all", "everything", is_flag=True, help="Check all of them: one pass over the tables"
)
@options.database
@options.output(ids=False)
def command(
    *, since: timedelta, everything: bool, url: str | None, schema: str | None, style: str
) -> None:
    """Check a database for anything that is wrong or will be. Changes nothing.

    Looks at the engine's invariants, the schema's version, this role's privileges, workers that died with
    work in hand, workflows nobody can run, durability settings, and what holds back vacuum.
    """
    settings = Settings.from_environment(url=url, schema=schema)
    found = asyncio.run(examine(settings, since=None if everything else since))
    if style == "json":
        print_json(found)
    else:
        _print(found)
    if any(finding.severity is Severity.ERROR for finding in found):
        raise click.exceptions.Exit(ExitCode.FINDINGS)


def _print(found: list[Finding]) -> None:
    for finding in found:
        print_facts(
            {
                finding.severity: f"{finding.check}: {finding.what}",
                "": None if finding.workflow_id is None else f"workflow {finding.workflow_id}",
                "remedy": finding.remedy,
            }
        )
    errors = sum(finding.severity is Severity.ERROR for finding in found)
    click.echo(
        f"{errors} errors, {len(found) - errors} warnings"
        if found
        else "nothing found: all is well"
    )
