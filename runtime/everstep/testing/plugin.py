"""The fixtures. `everstep_app` is yours to define; the others follow from it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everstep.app import App
from everstep.errors import EverstepError, UsageError
from everstep.testing.blocking import SyncStage
from everstep.testing.databases import Copies, server
from everstep.testing.stage import Stage

_asyncio_fixture: Callable[..., Any] | None
try:
    from pytest_asyncio import fixture as _asyncio_fixture
except ImportError:  # anyio's users have no need of it
    _asyncio_fixture = None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("everstep").addoption(
        "--everstep-replay",
        choices=("never", "always"),
        default="never",
        help="always: workflows leave their worker after each checkpoint and are replayed from their log, "
        "so that code which is not deterministic shows at once",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "everstep(replay=…, schedules=…, **settings): how this test's worker runs: replay='always', schedules=False, "
        "or any field of everstep.Settings, such as concurrency=1",
    )


@pytest.fixture
def everstep_app() -> App:
    """The App under test. Define this fixture in your conftest.py."""
    raise UsageError(
        "which App? Define a fixture in conftest.py: `@pytest.fixture` above `def everstep_app(): return app`"
    )


@pytest.fixture(scope="session")
def everstep_migrations() -> Path | None:
    """The folder of your own migrations, if there is one. Define this fixture to name it."""
    return None


@pytest.fixture(scope="session")
def everstep_databases(everstep_migrations: Path | None) -> Iterator[Copies]:
    """Makes databases: on an embedded Postgres, or on the server of EVERSTEP_TEST_DATABASE_URL."""
    with server() as databases:
        try:
            copies = Copies(databases, everstep_migrations)
        except EverstepError as error:
            # Without the frames: they say nothing more, and hold the password.
            pytest.fail(f"no database for the tests: {error}", pytrace=False)
        yield copies
        copies.close()


@pytest.fixture
def everstep_database(everstep_databases: Copies) -> Iterator[str]:
    """The connection string of a database of this test's own, with the engine's schema and yours."""
    with everstep_databases.fresh() as url:
        yield url


@pytest.fixture
def everstep_stage(request: pytest.FixtureRequest) -> Stage:
    """For `async def` tests: a worker of your App on the test's event loop, its client, and the clock."""
    if not inspect.iscoroutinefunction(request.function):
        raise UsageError(
            "everstep_stage is for `async def` tests; a plain test takes everstep_sync_stage"
        )
    anyio = "anyio_backend" in request.fixturenames
    name = "_everstep_stage_anyio" if anyio else "_everstep_stage_asyncio"
    stage: Stage = request.getfixturevalue(name)
    return stage


@pytest.fixture
def everstep_sync_stage(
    everstep_app: App, everstep_database: str, _everstep_options: dict[str, Any]
) -> Iterator[SyncStage]:
    """For plain tests: the same without `await`; the worker has a thread of its own."""
    with SyncStage(everstep_app, everstep_database, **_everstep_options) as stage:
        yield stage


@pytest.fixture
def _everstep_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the worker runs: the command line, then the markers, the closest one last."""
    options: dict[str, Any] = {"replay": request.config.getoption("--everstep-replay")}
    for marker in reversed(list(request.node.iter_markers("everstep"))):
        options.update(marker.kwargs)
    return options


def _stage(make: Callable[..., Any]) -> Any:
    # A function for each plugin: pytest-asyncio marks the functions that are its own.
    async def stage(
        everstep_app: App, everstep_database: str, _everstep_options: dict[str, Any]
    ) -> AsyncIterator[Stage]:
        async with Stage.open(everstep_app, everstep_database, **_everstep_options) as opened:
            yield opened

    return make(stage)


_everstep_stage_anyio = _stage(pytest.fixture)
if _asyncio_fixture is not None:
    _everstep_stage_asyncio = _stage(_asyncio_fixture)
