"""The command `everstep`: its sub-commands, and the one place where an error becomes a message and a code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from everstep import __version__
from everstep.cli.failures import ExitCode, report
from everstep.cli.teaching import TaughtGroup

_COMMANDS = {
    "dev": "a database, workers and metrics on this machine, for development",
    "worker": "run the workflows of an App until told to stop",
    "migrate": "bring the database's schema up to date",
    "workflow": "start workflows, look at them, stop them",
    "queue": "look at queues, pause and resume them",
    "schedule": "look at schedules, pause, change and trigger them",
    "version": "look at code versions, make one the current one",
    "doctor": "check a database for anything that is wrong or will be",
}


class _Lazy(TaughtGroup):
    """Imports a command's module when it is called, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"everstep.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "everstep dev app:app                 # try it: everything on this machine",
        "everstep migrate                     # make the tables",
        "everstep worker app:app              # run workflows",
        """everstep workflow start app:app checkout --input '{"order": 7}' --wait""",
        "everstep workflow list               # what happened",
    ],
    epilog="Exit codes: 0 success, 1 an error in everstep itself, 2 a wrong call, 3 no database, 4 schema too old "
    "or new, 5 a migration failed, 6 doctor found something, 7 the workflow failed or took too long, 70 watchdog.",
)
@click.version_option(__version__, prog_name="everstep", message="%(prog)s %(version)s")
def everstep() -> None:
    """Durable workflows that need nothing but Postgres.

    The database is named by EVERSTEP_DATABASE_URL, or --database.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command and exit with the code of docs/reference/contract.md."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stderr is None:
        # It was closed by whoever called; the exit code says it all the same.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    out = sys.stdout
    try:
        code = everstep.main(args=given, prog_name="everstep", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001
        # A closed pipe is what click answers by putting a deaf stream in its place and leaving.
        closed = isinstance(error, SystemExit) and sys.stdout is not out
        code = report(BrokenPipeError() if closed else error, called=_path(given))
    sys.exit(int(code) if isinstance(code, int) else ExitCode.SUCCESS)


def _path(given: Sequence[str]) -> str:
    """The command that was called, without what it was given: `everstep workflow start`."""
    found: click.Command | None = everstep
    words = ["everstep"]
    for word in given:
        if not isinstance(found, click.Group):
            break
        found = found.get_command(click.Context(found), word)
        words += [word] if found else []
    return " ".join(words)


if __name__ == "__main__":
    main()
