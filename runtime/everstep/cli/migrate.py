"""`everstep migrate`: the engine's schema, then the user's files; the outcome also for the pod's status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from everstep.cli import options
from everstep.cli.failures import printable
from everstep.cli.teaching import Taught
from everstep.errors import (
    DatabaseUnreachableError,
    EverstepError,
    MigrationError,
    UsageError,
)
from everstep.migrations.migrate import migrate
from everstep.settings import Settings, termination_log


@click.command(cls=Taught, examples=["everstep migrate", "everstep migrate --files migrations/"])
@click.option(
    "--files",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of your own NNNN_what.sql files",
)
@options.database
def command(*, files: Path | None, url: str | None, schema: str | None) -> None:
    """Bring the database up to date: the engine's tables, then your own SQL files in order.

    Each file runs once, in one transaction with its entry in the ledger, and must not change afterwards. A
    file that begins with `-- everstep: no-transaction` runs outside of one (CREATE INDEX CONCURRENTLY).
    Run it as often as you like: it waits for another one, and does what is missing.
    """
    try:
        settings = Settings.from_environment(url=url, schema=schema)
        done = migrate(
            settings.url, settings.schema, files, say=lambda line: click.echo(printable(line))
        )
    except EverstepError as error:
        _leave_report(_report_of(error))
        raise
    click.echo(f"schema {settings.schema} is at {done.engine}; {_applied(done.applied)}")
    _leave_report({"code": "Migrated", "engine": done.engine, "applied": done.applied})


def _applied(files: list[str]) -> str:
    return f"applied {len(files)}: {', '.join(files)}" if files else "nothing was missing"


def _report_of(error: EverstepError) -> dict[str, Any]:
    """The JSON object of docs/reference/contract.md for an error."""
    match error:
        case MigrationError():
            return error.report
        case DatabaseUnreachableError():
            code, remedy = (
                "DatabaseUnreachable",
                "Check the address, the login, and that the server is up.",
            )
        case UsageError():
            code, remedy = "BadFiles", "Put the call right and migrate again."
        case _:
            code, remedy = "MigrationFailed", "See the Job's log, and migrate again."
    return {"code": code, "message": printable(str(error)), "remedy": remedy}


def _leave_report(found: dict[str, Any]) -> None:
    """Write it where Kubernetes looks. Best effort: the exit code and the log say it too."""
    path = termination_log()
    if path is None:
        return
    try:
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        click.echo(
            f"note: cannot write the report to {path}: {os.strerror(error.errno or 0)}", err=True
        )
