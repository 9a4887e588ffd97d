"""`everstep migrate`: what it says, its exit code, and the report for the pod's status."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from support.command import Everstep, assert_told, in_process

from everstep.migrations.known import newest_known


@pytest.fixture
def run(capsys, empty_database: str, monkeypatch, tmp_path: Path) -> Everstep:
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", empty_database)
    monkeypatch.setenv("EVERSTEP_TERMINATION_LOG", str(tmp_path / "termination-log"))
    return in_process(capsys)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_orders.sql").write_text("CREATE TABLE orders (id int, status text);\n")
    return folder


def left(folder: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((folder.parent / "termination-log").read_text())
    return report


def test_the_engine_and_the_users_files_are_applied_once(run: Everstep, files: Path):
    first = run("migrate", "--files", str(files))
    assert first.code == 0
    assert "applying 0001_engine.sql" in first.out
    assert "applying 0001_orders.sql" in first.out
    report = left(files)
    assert (report["code"], report["engine"]) == ("Migrated", newest_known())
    assert "0001_orders.sql" in report["applied"]  # type: ignore[operator]
    again = run("migrate", "--files", str(files))
    assert again.out == f"schema everstep is at {newest_known()}; nothing was missing\n"
    assert left(files) == {"code": "Migrated", "engine": newest_known(), "applied": []}


def test_a_failed_file_is_named_with_statement_and_sqlstate(run: Everstep, files: Path):
    run("migrate", "--files", str(files))
    text = "CREATE TABLE other (id int);\nALTER TABLE orders ADD COLUMN status text;\n"
    (files / "0002_status.sql").write_text(text)
    said = run("migrate", "--files", str(files))
    assert said.code == 5
    assert "0002_status.sql, statement 2" in said.err
    assert "SQLSTATE 42701" in said.err
    assert "Traceback" not in said.err
    report = left(files)
    assert report["code"] == "MigrationFailed"
    assert (report["file"], report["statement"], report["sqlstate"]) == (
        "0002_status.sql",
        2,
        "42701",
    )
    assert report["remedy"]


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        (lambda f: (f / "0001_orders.sql").write_text("SELECT 1;"), 5, "HistoryDiverged"),
        (lambda f: (f / "0001_orders.sql").rename(f / "0002_o.sql"), 5, "HistoryDiverged"),
        (lambda f: (f / "Orders.sql").write_text("SELECT 1;"), 2, "BadFiles"),
        (lambda f: (f / "0001_orders.sql").unlink(), 2, "BadFiles"),
    ],
)
def test_files_that_do_not_fit_are_reported(run: Everstep, files: Path, change, code, name):
    run("migrate", "--files", str(files))
    change(files)
    assert_told(run("migrate", "--files", str(files)), code)
    assert left(files)["code"] == name


def test_a_half_applied_file_is_dirty(run: Everstep, files: Path):
    text = "-- everstep: no-transaction\nCREATE INDEX a ON orders (id);\nSELECT 1 / 0;\n"
    (files / "0002_index.sql").write_text(text)
    assert run("migrate", "--files", str(files)).code == 5
    assert left(files)["code"] == "MigrationFailed"
    assert_told(run("migrate", "--files", str(files)), 5, "stopped half-way")
    assert left(files)["code"] == "Dirty"


def test_a_newer_schema_is_left_alone(run: Everstep, files: Path, empty_database: str):
    run("migrate")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO everstep.migration (origin, number, file, checksum, state, started_at, "
            "applied_by) VALUES ('engine', 99, '0099_x.sql', '', 'applied', now(), 'me')"
        )
    assert_told(run("migrate"), 4, "the engine's schema is at 99")
    assert left(files)["code"] == "SchemaTooNew"


def test_an_unreachable_database_is_reported_without_its_password(run: Everstep, files: Path):
    said = run("migrate", "--database", "postgresql://me:sesame@127.0.0.1:1/x")
    assert_told(said, 3, "cannot connect")
    report = left(files)
    assert report["code"] == "DatabaseUnreachable"
    assert "sesame" not in json.dumps(report)


def test_a_login_that_may_not_create_is_told(run: Everstep, files: Path, empty_database: str):
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS climigrate")
        connection.execute("CREATE ROLE climigrate LOGIN")
    try:
        url = empty_database.replace("postgres@", "climigrate@")
        assert_told(run("migrate", "--database", url), 5, "permission denied", "42501", "GRANT")
    finally:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute("DROP ROLE climigrate")


def test_the_schema_may_have_another_name(run: Everstep, empty_database: str):
    assert run("migrate", "--schema", "flows").code == 0
    assert run("workflow", "list", "--schema", "flows").code == 0
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'everstep'")
        assert found.fetchall() == []
    assert_told(run("migrate", "--schema", "Flows; DROP"), 2, "lower-case letters")


def test_a_report_that_cannot_be_written_is_no_failure(run: Everstep, monkeypatch):
    monkeypatch.setenv("EVERSTEP_TERMINATION_LOG", "/nowhere/at/all")
    said = run("migrate")
    assert said.code == 0
    assert "cannot write the report" in said.err
