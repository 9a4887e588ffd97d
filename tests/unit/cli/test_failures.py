"""Errors become two lines and a code; what is secret stays so."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from everstep import (
    DatabaseUnreachableError,
    PayloadError,
    SchemaError,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
)
from everstep.cli.durations import instant
from everstep.cli.failures import exit_code, printable, report, what_and_remedy
from everstep.cli.main import main
from everstep.client.handle import error_of
from everstep.errors import (
    DEADLINE_EXCEEDED,
    DatabaseRefusedError,
    Failure,
    MigrationError,
    WorkflowError,
)
from everstep.store.models import Ending, Outcome

# docs/reference/contract.md
CODES = [
    (RuntimeError("x"), 1),
    (UsageError("x"), 2),
    (PayloadError("x"), 2),
    (UnknownWorkflowError("x"), 2),
    (DatabaseUnreachableError("x"), 3),
    (DatabaseRefusedError("x", "42501"), 3),
    (SchemaError("x"), 4),
    (MigrationError({"code": "MigrationFailed", "message": "x"}), 5),
    (MigrationError({"code": "Dirty", "message": "x"}), 5),
    (MigrationError({"code": "HistoryDiverged", "message": "x"}), 5),
    (MigrationError({"code": "SchemaTooNew", "message": "x"}), 4),
    (MigrationError({"code": "BadFiles", "message": "x"}), 2),
    (WorkflowError("id", "name", Failure("T", "m")), 7),
    (WorkflowCancelledError("x"), 7),
    (TimeoutError("x"), 7),
]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int):
    assert exit_code(error) == code


def test_only_faults_of_everstep_itself_show_a_traceback(capsys):
    assert report(RuntimeError("postgresql://u:secret@h/x is odd")) == 1
    err = capsys.readouterr().err
    assert "an error in everstep itself: RuntimeError" in err
    assert "secret" not in err
    assert report(UsageError("no such thing. Try another.")) == 2
    assert capsys.readouterr().err == "error: no such thing.\n  Try another.\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://u:se@cret@h:5/x now", "at postgresql://u:***@h:5/x now"),
        ("host=h password=secret user=u", "host=h password=*** user=u"),
        ("host=h password='se cret' user=u", "host=h password=*** user=u"),
        ("PASSWORD = secret", "PASSWORD = ***"),
        ("as postgresql://user:password@host:5432/name", None),
        ("postgresql://h/x", None),
    ],
)
def test_passwords_are_never_printed(text: str, shown: str | None):
    assert printable(text) == (text if shown is None else shown)


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("it is 1.5 s late", "it is 1.5 s late", ""),
        ("a.b is bad. Use c.d instead", "a.b is bad.", "Use c.d instead"),
        ("too old. Run `everstep migrate`.", "too old.", "Run `everstep migrate`."),
        ("one. Two. Three", "one. Two.", "Three"),
    ],
)
def test_the_last_sentence_says_what_to_do(text: str, what: str, remedy: str):
    assert what_and_remedy(UsageError(text)) == (what, remedy)


def test_a_failed_migration_names_file_statement_and_sqlstate():
    error = MigrationError(
        {
            "code": "MigrationFailed",
            "file": "0002_x.sql",
            "statement": 3,
            "sqlstate": "42701",
            "message": "column exists",
            "remedy": "Put it right.",
        }
    )
    what = "0002_x.sql, statement 3: column exists (SQLSTATE 42701)"
    assert what_and_remedy(error) == (what, "Put it right.")


@pytest.mark.parametrize("command", [[], ["queue"]])
def test_a_group_without_a_command_shows_its_help_as_it_is(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: everstep")
    assert "\nCommands:\n" in said
    assert "error" not in said.splitlines()[0]


def test_who_reads_only_the_beginning_gets_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "everstep.cli.main", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cancelled_workflow_is_named_in_what_to_do():
    outcome = Outcome("order-7", "checkout", Ending.CANCELLED, 1, None, DEADLINE_EXCEEDED.encode())
    _, remedy = what_and_remedy(error_of(outcome))
    assert remedy == "`everstep workflow steps order-7` shows how far it came."


def test_an_instant_without_offset_is_shown_with_one():
    with pytest.raises(click.BadParameter) as refused:
        instant("2027-01-01")
    assert "write 2027-01-01T00:00Z, or" in refused.value.message
    assert instant("2027-01-01T00:00Z").tzinfo is not None


@pytest.mark.parametrize(
    "words", ["workflow list --since 99999999d", "doctor --since 99999999999d"]
)
def test_what_is_longer_than_the_calendar_is_a_wrong_call(words: str, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--database", "postgresql://127.0.0.1:1/x"])
    assert (ended.value.code, "longer than anything lasts" in capsys.readouterr().err) == (2, True)


def test_bytes_that_are_no_text_are_a_wrong_call(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["workflow", "send", "id", "topic", '"\udcff"'])
    err = capsys.readouterr().err
    assert (ended.value.code, "Traceback" in err) == (2, False)
    assert "is not UTF-8" in err


def everstep(words: str, ending: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell, which opens or closes its outputs."""
    command = f"exec {sys.executable} -m everstep.cli.main {words} {ending}"
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk")  # noqa: PTH110
def test_a_full_disk_is_no_fault_of_everstep():
    ran = everstep("--help", ">/dev/full")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "No space left" in ran.stderr


def test_the_exit_code_holds_where_nobody_listens():
    assert everstep("workflow list --database nonsense", "2>&-").returncode == 2
