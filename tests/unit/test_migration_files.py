"""Migration files: named, numbered, and cut where their statements end."""

from __future__ import annotations

import pytest

from everstep.errors import MigrationError
from everstep.migrations.files import Migration, read_folder, split_statements
from everstep.migrations.migrate import engine_migrations


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1;", "SELECT 2"]),
        ("SELECT 1;;\n;", ["SELECT 1;"]),
        ("-- nothing; here\n", []),
        ("/* nothing; here */ ;", []),
        ("SELECT ';';SELECT 2;", ["SELECT ';';", "SELECT 2;"]),
        ("SELECT 'it''s; fine'; SELECT 2;", ["SELECT 'it''s; fine';", "SELECT 2;"]),
        ('SELECT 1 AS "a;b""c;"; SELECT 2;', ['SELECT 1 AS "a;b""c;";', "SELECT 2;"]),
        ("SELECT $$a;b$$; SELECT 2;", ["SELECT $$a;b$$;", "SELECT 2;"]),
        ("SELECT $x$a;$$;b$x$; SELECT 2;", ["SELECT $x$a;$$;b$x$;", "SELECT 2;"]),
        ("SELECT 1 -- a; b\n; SELECT 2", ["SELECT 1 -- a; b\n;", "SELECT 2"]),
        ("SELECT 1 /* ; */; SELECT 2", ["SELECT 1 /* ; */;", "SELECT 2"]),
        ("SELECT 1 /* a /* ; */ ; */; SELECT 2", ["SELECT 1 /* a /* ; */ ; */;", "SELECT 2"]),
        (r"SELECT E'it\'s; fine'; SELECT 2;", [r"SELECT E'it\'s; fine';", "SELECT 2;"]),
        ("SELECT a$b$c FROM t; SELECT 2;", ["SELECT a$b$c FROM t;", "SELECT 2;"]),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3;",
            [
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;",
                "SELECT 3;",
            ],
        ),
    ],
)
def test_a_file_is_cut_where_its_statements_end(text, statements):
    assert split_statements(text) == statements


def test_a_file_may_ask_to_run_outside_of_a_transaction():
    assert Migration(1, "0001_a.sql", "CREATE TABLE a ();").transactional
    assert not Migration(1, "0001_a.sql", "\n-- everstep: no-transaction\nVACUUM;").transactional
    assert Migration(1, "0001_a.sql", "SELECT 1; -- everstep: no-transaction").transactional


@pytest.mark.parametrize(
    ("text", "oldest"),
    [
        ("CREATE TABLE a ();", 7),
        ("-- everstep: oldest-code 5\nCREATE TABLE a ();", 5),
        ("-- What it is for.\n--   everstep:  oldest-code 5\nCREATE TABLE a ();", 5),
        ("-- everstep: no-transaction\n-- everstep: oldest-code 5\nVACUUM;", 5),
        ("CREATE TABLE a ();\n-- everstep: oldest-code 5\n", 7),
    ],
)
def test_a_file_may_say_which_code_may_still_run(text, oldest):
    assert Migration(7, "0007_a.sql", text).oldest_code == oldest


def test_no_migration_of_the_engine_asks_for_code_newer_than_itself():
    assert all(m.oldest_code <= m.number for m in engine_migrations())


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    for name in ("0010_b.sql", "0002_a.sql", "notes.txt"):
        (tmp_path / name).write_text("SELECT 1;")
    assert [m.file for m in read_folder(tmp_path)] == ["0002_a.sql", "0010_b.sql"]


@pytest.mark.parametrize("name", ["1_a.sql", "0001-a.sql", "0001_A.sql", "a.sql", "0001_.sql"])
def test_a_file_with_another_kind_of_name_is_refused(tmp_path, name):
    (tmp_path / "0001_fine.sql").write_text("SELECT 1;")
    (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=name):
        read_folder(tmp_path)


def test_two_files_with_one_number_are_refused(tmp_path):
    for name in ("0001_a.sql", "0001_b.sql"):
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="the same number"):
        read_folder(tmp_path)
