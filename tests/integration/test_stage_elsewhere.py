"""The plugin in a project of a user's own: with anyio's plugin, and on a server that is there already."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.database import Sql
from support.server import Server

pytestmark = pytest.mark.slow  # pytest in pytest, each with databases of its own

PROJECT = {
    "greetings.py": """
        from datetime import timedelta

        import everstep
        from everstep import App

        app = App("greetings")


        @app.workflow
        async def greet(name: str) -> str:
            await everstep.sleep(timedelta(days=30))
            return f"hello {name}"
        """,
    "conftest.py": """
        import pytest
        from greetings import app

        pytest_plugins = ["everstep.testing"]


        @pytest.fixture
        def everstep_app():
            return app


        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """,
    "test_greetings.py": """
        import asyncio

        import pytest
        from greetings import greet


        @pytest.fixture
        async def name():
            return "ada"  # a fixture of anyio's: everstep's are on its event loop too


        @pytest.mark.anyio
        async def test_async(everstep_stage, name, everstep_database):
            assert (await everstep_stage.run(greet, name)).result == "hello ada"
            assert "MARK" in everstep_database


        def test_plain(everstep_sync_stage):
            assert everstep_sync_stage.run(greet, "ben").result == "hello ben"
        """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(
            "\n".join(line.removeprefix("        ") for line in text.splitlines()) + "\n"
        )
    return tmp_path


def run_tests(project: Path, mark: str, database: str | None) -> subprocess.CompletedProcess[str]:
    test = project / "test_greetings.py"
    test.write_text(test.read_text().replace("MARK", mark))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("EVERSTEP", "PYTEST"))}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "runtime")
    if database is not None:
        environment["EVERSTEP_TEST_DATABASE_URL"] = database
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_with_anyio_on_the_embedded_postgres(project: Path) -> None:
    ran = run_tests(project, "/everstep-test-", None)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_on_a_server_that_is_there_and_nothing_is_left_on_it(
    project: Path, postgres: Server, empty_database: str
) -> None:
    names = "SELECT array_agg(datname ORDER BY datname) FROM pg_database"
    with contextlib.closing(Sql(empty_database)) as sql:
        before = sql.one(names)
        ran = run_tests(project, "127.0.0.1", postgres.tcp_url())
        assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
        assert sql.one(names) == before


def test_a_server_that_is_not_there_is_named(project: Path) -> None:
    ran = run_tests(project, "", "postgresql://tester:secret@127.0.0.1:1/postgres")
    assert "cannot connect to Postgres at 127.0.0.1:1/postgres as tester" in ran.stdout
    assert "secret" not in ran.stdout
    assert "2 errors" in ran.stdout


def test_a_role_that_may_not_make_databases_is_told_what_it_needs(
    project: Path, postgres: Server, empty_database: str
) -> None:
    with contextlib.closing(Sql(empty_database)) as sql:
        sql("CREATE ROLE stage_weak LOGIN")
        try:
            ran = run_tests(project, "", postgres.tcp_url().replace("postgres@", "stage_weak@"))
        finally:
            sql("DROP ROLE stage_weak")
    assert "ALTER ROLE stage_weak CREATEDB" in ran.stdout, ran.stdout
    assert "Traceback" not in ran.stdout
    assert "psycopg" not in ran.stdout
