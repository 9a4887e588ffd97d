"""Fixtures for every suite: a Postgres for the session, a fresh database per test, workers and clients.

A test that used `database` ends with fsck: no invariant of the engine may be broken in what it leaves behind.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from support.database import Sql, fresh_database, make_template
from support.server import Server, binaries, running_server

from everstep import App, Client, Settings, Worker
from everstep.store.fsck import fsck
from everstep.store.testing import Databases
from everstep.testing.databases import Copies
from everstep.testing.probe import Plan

pytest_plugins = ["everstep.testing"]

StartWorker = Callable[..., Awaitable[Worker]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        default="wheel",
        help="which Postgres: `wheel` (18, the default) or a major version that is installed, such as 15",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "no_fsck: the test breaks an invariant on purpose")
    config.addinivalue_line(
        "markers", "no_replay(reason): what it looks at is different with --everstep-replay=always"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--everstep-replay") == "never":
        return
    for item in items:
        if mark := item.get_closest_marker("no_replay"):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


def pytest_report_header() -> str:
    return f"seed: {SEED} (repeat with SEED={SEED})"


SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
# Tests that run side by side (`pytest -n 3`) are processes of their own: all of them have the same seed.
os.environ["SEED"] = str(SEED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the long runs counted: they say it by print, and docs/reliability.md speaks of it."""
    passed = [
        report
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and "slow" in report.keywords and report.capstdout
    ]
    if passed:
        terminalreporter.section("figures")
    for report in passed:
        terminalreporter.line(report.nodeid, bold=True)
        terminalreporter.line(indent(report.capstdout.strip(), "    "))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The session's seed, shown with a failure of the test that uses it; SEED=… repeats it."""
    request.node.user_properties.append(("seed", SEED))
    print(f"seed {SEED}")
    return SEED


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for the session, its template database migrated."""
    version = request.config.getoption("--postgres")
    if binaries(version) is None:
        pytest.skip(f"PostgreSQL {version} is not installed")
    with running_server(version) as server:
        make_template(server)
        yield server


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[str]:
    """The url of a database without a schema."""
    with fresh_database(postgres, template=None) as name:
        yield postgres.url(name)


@pytest.fixture
def database(postgres: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The url of a migrated database; checked by fsck when the test is over."""
    with fresh_database(postgres) as name:
        yield postgres.url(name)
        if request.node.get_closest_marker("no_fsck") is None:
            check_invariants(postgres.url(name))


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    """Runs SQL on the test's database."""
    runner = Sql(database)
    yield runner
    runner.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder like tmp_path, near enough to the root for the address of a socket in it."""
    with tempfile.TemporaryDirectory(prefix="everstep-") as folder:
        yield Path(folder)


@pytest.fixture
def app() -> App:
    return App("test")


@pytest.fixture
async def client(database: str) -> AsyncIterator[Client]:
    async with Client.connect(database) as client:
        yield client


@pytest.fixture
async def worker(
    database: str, app: App, request: pytest.FixtureRequest
) -> AsyncIterator[StartWorker]:
    """`await worker(app?, queues=?, **settings)`: a worker in this process, stopped after the test."""
    always = request.config.getoption("--everstep-replay") == "always"
    probe = Plan(replay=True).probe if always else None
    async with AsyncExitStack() as stack:

        async def start(
            which: App | None = None, *, queues: list[str] | None = None, **settings: Any
        ) -> Worker:
            # Its lease is that of production: a machine that stands still for some seconds takes it from nobody.
            chosen = Settings(**{"url": database, "grace": 5.0, **settings})
            return await stack.enter_async_context(
                Worker(which or app, chosen, queues, probe=probe)
            )

        yield start


@pytest.fixture(scope="session")
def everstep_databases(postgres: Server) -> Iterator[Copies]:
    """everstep.testing makes its databases on the session's server, too."""
    copies = Copies(Databases(postgres.url()), None)
    yield copies
    copies.close()


@pytest.fixture
def everstep_database(everstep_databases: Copies) -> Iterator[str]:
    with everstep_databases.fresh() as url:
        yield url
        check_invariants(url)


@pytest.fixture
def everstep_app(app: App) -> App:
    return app


def check_invariants(url: str) -> None:
    """Fails with what fsck finds."""
    assert fsck(url) == []
