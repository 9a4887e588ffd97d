"""`everstep version`: look at code versions, make one the current one."""

from __future__ import annotations

import click

from everstep.cli import options
from everstep.cli.output import print_rows
from everstep.cli.session import with_connection
from everstep.cli.teaching import TaughtGroup
from everstep.errors import UsageError
from everstep.settings import checked_version
from everstep.store.connection import Connection
from everstep.store.control import Control, VersionInfo

_COLUMNS = {
    "version": "VERSION",
    "state": "STATE",
    "workers": "WORKERS",
    "running": "RUNNING",
    "queued": "QUEUED",
    "parked": "PARKED",
    "oldest": "OLDEST SINCE",
    "next_wake": "NEXT WAKE",
}


@click.group(cls=TaughtGroup, examples=["everstep version list", "everstep version promote v2"])
def command() -> None:
    """Look at code versions, make one the current one. On Kubernetes the operator does it."""


@command.command("list", examples=["everstep version list -o json"])
@options.database
@options.output()
def list_(*, url: str | None, schema: str | None, style: str) -> None:
    """Versions, newest first: their live workers, and the open workflows pinned to them."""

    async def ask(connection: Connection, schema: str) -> list[VersionInfo]:
        return await Control(schema).versions(connection)

    rows = with_connection(url, schema, ask)
    print_rows(rows, style, _COLUMNS, id_of="version", empty="no worker has ever registered")


@command.command(examples=["everstep version promote v2", "everstep version promote v2 --force"])
@click.argument("version")
@click.option("--force", is_flag=True, help="Even if no live worker runs it")
@options.database
def promote(*, version: str, force: bool, url: str | None, schema: str | None) -> None:
    """Route every workflow that has not begun to VERSION. The former one drains."""
    checked_version(version)

    async def change(connection: Connection, schema: str) -> list[VersionInfo]:
        control = Control(schema)
        before = {info.version: info for info in await control.versions(connection)}
        if not force and (version not in before or not before[version].workers):
            raise UsageError(
                f"no live worker runs version {version!r}: nothing would be claimed. Start one with "
                f"EVERSTEP_VERSION={version}, or say --force"
            )
        await control.promote(connection, version)
        return await control.versions(connection)

    rows = with_connection(url, schema, change)
    print_rows(rows, "table", _COLUMNS, id_of="version", empty="")
