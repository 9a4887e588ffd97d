#!/usr/bin/env python3
"""Write docs/reference/cli.md from the command's own help texts; --check: only tell whether it is fresh."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from everstep.cli.main import everstep

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

PREFACE = """\
# The command `everstep`

<!-- Written by scripts/cli_reference.py from the commands' own help texts. -->

The database is named by `EVERSTEP_DATABASE_URL` or `--database`, the schema of the engine's tables by
`EVERSTEP_SCHEMA` or `--schema`; an option goes before the environment. All variables stand in
[the contract](contract.md).

- **Output.** Standard output holds what was asked for and nothing else; notes and errors go to standard error.
  Lists come as a table, as JSON (`-o json`) or as bare ids (`-o ids`) for other commands. There are no colours in pipes.
- **Errors** are one line that says what is wrong and one that says what to do. Passwords are never printed. A
  traceback appears only for a fault of everstep itself (exit code 1); for a module that does not import,
  the last frames of its own.
- **Durations** are written `30` (seconds), `250ms`, `45s`, `5m`, `2h`, `3d`.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | an error in everstep itself |
| 2 | the call is wrong: option, module that does not import, unknown workflow name, bad input |
| 3 | the database cannot be reached, or refuses the login or a statement |
| 4 | the engine's schema is too old or too new for this code |
| 5 | a migration failed |
| 6 | `doctor` found an error |
| 7 | the workflow asked about failed, was cancelled, or did not finish in time |
| 70 | watchdog: the event loop stood still |
| 130, 143 | ended by a signal before it was done |
"""

AFTER = {
    "everstep dev": """\
The folder holds `data` (PostgreSQL's), `log`, `run` (the socket) and `password` (for `--database-port`; the socket
asks for none). Workers that die are started again. Where util-linux is there, the processes end with `everstep dev`
even if that one is killed. PostgreSQL refuses to be root: for root it runs as `nobody`, and no folder's
permissions are changed.
""",
    "everstep migrate": """\
The outcome is also written as one JSON object to `EVERSTEP_TERMINATION_LOG`, by default `/dev/termination-log` where
that exists: [the contract](contract.md) lists its codes.
""",
    "everstep doctor": """\
| check | severity | finds |
|---|---|---|
| `schema` | error | the engine's schema is missing, too old or too new; nothing else is looked at then |
| `privileges` | error | statements this role may not run: every statement of the engine is explained, none is run |
| `standby` | error | the server is a standby |
| `durability` | error | `synchronous_commit`, `fsync` or `full_page_writes` is off |
| `migrations` | error | a migration outside a transaction began and never ended |
| `dead-workers` | error | a worker is gone and still owns workflows, and nobody is there to rescue them |
| `stranded` | error | workflows wait for a version that no live worker runs, or no version is current |
| `unclaimed` | warning | workflows are ready for a minute although workers of their version have room |
| `paused` | warning | a paused queue has workflows ready |
| `horizon` | warning | a transaction older than ten minutes, a prepared one or an idle slot holds back vacuum |
| `I1` … `I14` | error | an invariant of `fsck.sql` does not hold (`I13` is a warning: see its remedy) |

It reads what is open, and of what has finished only the last day's unless `--since` or `--all` says otherwise; each
list ends after 100 rows. Nothing is locked or changed.
""",
}


def page() -> str:
    parts = [PREFACE]
    for path, command in commands(everstep, "everstep"):
        context = click.Context(command, info_name=path, terminal_width=100, max_content_width=100)
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"{'#' * (1 + path.count(' '))} `{path}`\n\n```text\n{text}\n```\n")
        if path in AFTER:
            parts.append(AFTER[path])
    return "\n".join(parts)


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with its whole name."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        fresh = PAGE.exists() and PAGE.read_text() == page()
        if not fresh:
            sys.stderr.write(f"{PAGE.name} is not fresh: run scripts/cli_reference.py\n")
        return 0 if fresh else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
