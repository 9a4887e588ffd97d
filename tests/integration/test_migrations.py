"""Migrations: each file once, whoever runs them and whatever stops them half-way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from support.database import Sql
from support.waiting import eventually_now

from everstep.errors import DatabaseUnreachableError, MigrationError, UsageError
from everstep.migrations import migrate as module
from everstep.migrations.migrate import engine_migrations, migrate


@pytest.fixture
def sql(empty_database):
    runner = Sql(empty_database)
    yield runner
    runner.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_orders.sql").write_text(
        "CREATE TABLE orders (id int PRIMARY KEY);\nINSERT INTO orders VALUES (1);\n"
    )
    return tmp_path


def report_of(url: str, folder: Path | None = None) -> dict[str, object]:
    with pytest.raises(MigrationError) as caught:
        migrate(url, "everstep", folder)
    assert caught.value.report["message"]
    assert caught.value.report["remedy"]
    return caught.value.report


def test_files_are_applied_once_and_in_order(empty_database, sql, folder):
    (folder / "0002_status.sql").write_text("ALTER TABLE orders ADD COLUMN status text;")
    said: list[str] = []
    first = migrate(empty_database, "everstep", folder, said.append)
    assert first.applied[-2:] == ["0001_orders.sql", "0002_status.sql"]
    assert said[-2:] == ["applying 0001_orders.sql", "applying 0002_status.sql"]
    assert migrate(empty_database, "everstep", folder).applied == []
    (folder / "0003_more.sql").write_text("INSERT INTO orders VALUES (2, 'new');")
    assert migrate(empty_database, "everstep", folder).applied == ["0003_more.sql"]
    assert sql.one("SELECT count(*) FROM orders") == 2
    assert sql("SELECT origin, number, state FROM everstep.migration WHERE origin = 'user'") == [
        ("user", n, "applied") for n in (1, 2, 3)
    ]


def test_the_engine_alone(empty_database, sql):
    assert migrate(empty_database, "everstep").applied[0] == "0001_engine.sql"
    assert migrate(empty_database, "everstep").applied == []
    assert sql.one("SELECT engine_schema FROM everstep.v1_routing") >= 1


def test_two_schemas_in_one_database(empty_database, sql):
    migrate(empty_database, "everstep")
    migrate(empty_database, "other")
    sql("SELECT other.set_routing('v1', NULL, 0, NULL)")
    assert sql("SELECT version FROM other.v1_versions") == [("v1",)]
    assert sql("SELECT version FROM everstep.v1_versions") == []
    bodies = sql(
        "SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        "WHERE n.nspname = 'other' AND p.prosrc LIKE '%%everstep.%%'",
        [],
    )
    assert bodies == []


def test_a_failing_file_leaves_nothing_and_tells_where(empty_database, sql, folder):
    (folder / "0002_bad.sql").write_text(
        "CREATE TABLE items (id int);\n-- and now the mistake;\nALTER TABLE orders ADD COLUMN id int;"
    )
    report = report_of(empty_database, folder)
    assert (report["code"], report["file"], report["statement"], report["sqlstate"]) == (
        "MigrationFailed",
        "0002_bad.sql",
        2,
        "42701",
    )
    assert sql.one("SELECT to_regclass('items')") is None
    assert sql.one("SELECT count(*) FROM orders") == 1
    (folder / "0002_bad.sql").write_text("CREATE TABLE items (id int);")
    assert migrate(empty_database, "everstep", folder).applied == ["0002_bad.sql"]


def test_a_changed_or_missing_or_late_file_is_refused(empty_database, folder):
    second = folder / "0002_second.sql"
    second.write_text("SELECT 1;")
    migrate(empty_database, "everstep", folder)
    second.write_text("SELECT 2;")
    assert report_of(empty_database, folder)["code"] == "HistoryDiverged"
    second.unlink()
    (folder / "0003_third.sql").write_text("SELECT 3;")
    assert report_of(empty_database, folder)["file"] == "0002_second.sql"
    (folder / "0003_third.sql").unlink()
    second.write_text("SELECT 1;")
    (folder / "0000_early.sql").write_text("SELECT 0;")
    assert report_of(empty_database, folder)["file"] == "0000_early.sql"


def test_the_shorter_folder_of_a_rollback_leaves_what_newer_code_added(empty_database, sql, folder):
    (folder / "0002_second.sql").write_text("ALTER TABLE orders ADD COLUMN note text;")
    migrate(empty_database, "everstep", folder)
    (folder / "0002_second.sql").unlink()
    assert migrate(empty_database, "everstep", folder).applied == []
    assert sql.one("SELECT count(note) FROM orders") == 0
    (folder / "0002_other.sql").write_text("ALTER TABLE orders ADD COLUMN other text;")
    assert report_of(empty_database, folder)["code"] == "HistoryDiverged"


def test_a_file_outside_a_transaction_that_stopped_half_way_is_never_run_blindly(
    empty_database, sql, folder
):
    (folder / "0002_index.sql").write_text(
        "-- everstep: no-transaction\nINSERT INTO orders VALUES (2);\n"
        "CREATE INDEX CONCURRENTLY orders_id ON nothing (id);"
    )
    report = report_of(empty_database, folder)
    assert (report["code"], report["statement"]) == ("MigrationFailed", 2)
    assert report_of(empty_database, folder)["code"] == "Dirty"
    assert sql.one("SELECT count(*) FROM orders") == 2
    sql("UPDATE everstep.migration SET state = 'applied' WHERE number = 2 AND origin = 'user'")
    assert migrate(empty_database, "everstep", folder).applied == []


def test_an_index_can_be_built_concurrently(empty_database, sql, folder):
    (folder / "0002_index.sql").write_text(
        "-- everstep: no-transaction\nCREATE INDEX CONCURRENTLY orders_id ON orders (id);"
    )
    assert migrate(empty_database, "everstep", folder).applied[-1] == "0002_index.sql"
    assert (
        sql.one("SELECT state FROM everstep.migration WHERE file = '0002_index.sql'") == "applied"
    )


def test_a_lock_that_stays_in_the_way_is_given_up_naming_who_holds_it(
    empty_database, folder, monkeypatch
):
    monkeypatch.setattr(module, "LOCK_TRIES", 2)
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", b"SET LOCAL lock_timeout = '50ms'", raising=False)
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    migrate(empty_database, "everstep", folder)
    (folder / "0002_status.sql").write_text("ALTER TABLE orders ADD COLUMN status text;")
    said: list[str] = []
    with psycopg.connect(empty_database, application_name="a long report") as blocker:
        blocker.execute("SELECT * FROM orders")
        with pytest.raises(MigrationError) as caught:
            migrate(empty_database, "everstep", folder, said.append)
        report = caught.value.report
        assert report["code"] == "LockTimeout"
        assert report["sqlstate"] == "55P03"
        assert f"pid {blocker.info.backend_pid} a long report" in report["message"]
        assert sum("waiting for a lock" in line for line in said) == 2
    assert migrate(empty_database, "everstep", folder).applied == ["0002_status.sql"]


def test_a_lock_that_goes_away_is_waited_for(empty_database, folder, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    migrate(empty_database, "everstep", folder)
    (folder / "0002_status.sql").write_text("ALTER TABLE orders ADD COLUMN status text;")
    blocker = psycopg.connect(empty_database)
    blocker.execute("SELECT * FROM orders")
    told = threading.Event()

    def say(line: str) -> None:
        if "waiting for a lock" in line:
            blocker.close()
            told.set()

    assert migrate(empty_database, "everstep", folder, say).applied == ["0002_status.sql"]
    assert told.is_set()


def test_runners_at_once_apply_each_file_once(empty_database, sql, folder):
    with ThreadPoolExecutor(5) as pool:
        runs = list(
            pool.map(lambda _: migrate(empty_database, "everstep", folder).applied, range(5))
        )
    assert sorted(file for run in runs for file in run) == sorted(
        [*(m.file for m in engine_migrations()), "0001_orders.sql"]
    )
    assert sql.one("SELECT count(*) FROM orders") == 1


def test_a_runner_that_dies_leaves_the_lock_and_the_schema_usable(empty_database, sql, folder):
    (folder / "0002_slow.sql").write_text("CREATE TABLE slow (id int);\nSELECT pg_sleep(60);")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(migrate, empty_database, "everstep", folder)
        eventually_now(
            lambda: sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'everstep migrate' AND query LIKE '%%pg_sleep%%'",
                [],
            )
        )
        with pytest.raises(DatabaseUnreachableError):
            run.result()
    assert sql.one("SELECT to_regclass('slow')") is None
    (folder / "0002_slow.sql").write_text("CREATE TABLE slow (id int);")
    assert migrate(empty_database, "everstep", folder).applied == ["0002_slow.sql"]


def test_a_newer_engine_schema_is_refused(empty_database, sql):
    migrate(empty_database, "everstep")
    sql(
        "INSERT INTO everstep.migration (origin, number, file, checksum, state, started_at, applied_by) "
        "VALUES ('engine', 999, '0999_future.sql', '', 'applied', now(), 'x')"
    )
    assert report_of(empty_database)["code"] == "SchemaTooNew"


def test_bad_folders_and_bad_addresses(empty_database, tmp_path):
    assert report_of(empty_database, tmp_path / "none")["code"] == "BadFiles"
    assert report_of(empty_database, tmp_path)["code"] == "BadFiles"
    (tmp_path / "1_short.sql").write_text("")
    assert "1_short.sql" in str(report_of(empty_database, tmp_path)["message"])
    with pytest.raises(DatabaseUnreachableError):
        migrate("postgresql://postgres@127.0.0.1:1/x", "everstep")
    with pytest.raises(UsageError):
        migrate(empty_database, 'x"; DROP SCHEMA public')
