"""`everstep workflow send`, `events`, `stream` and `cancel` against a real database and a real worker."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from support.command import Everstep, in_process, spawn
from support.database import Sql
from support.waiting import eventually_now

LOANS = """
import everstep
from everstep import App
app = App("loans")

@app.workflow
async def loan(customer: str) -> str:
    await everstep.set_event("asked", {"customer": customer})
    await everstep.write_stream("log", "asked")
    answer = await everstep.recv("decision")
    await everstep.write_stream("log", answer)
    return f"{answer} for {customer}"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, capsys) -> Everstep:
    (tmp_path / "cliloans.py").write_text(LOANS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    yield in_process(capsys)
    sys.modules.pop("cliloans", None)


@pytest.fixture
def working(run: Everstep, tmp_path: Path, database: str):
    log = tmp_path / "worker.log"
    process = spawn(
        *("worker", "cliloans:app", "--port", "0"),
        cwd=tmp_path,
        out=log,
        EVERSTEP_DATABASE_URL=database,
    )
    eventually_now(lambda: "runs app loans" in log.read_text() or process.poll(), within=30)
    yield process
    process.terminate()
    assert process.wait(30) == 0, log.read_text()


def start(run: Everstep, *ids: str) -> None:
    for id_ in ids:
        given = json.dumps({"customer": id_})
        assert (
            run("workflow", "start", "cliloans:app", "loan", "--input", given, "--id", id_).code
            == 0
        )


def test_a_person_talks_with_a_workflow(run: Everstep, working, sql: Sql):
    start(run, "l1")
    eventually_now(lambda: sql.one("SELECT state FROM everstep.run WHERE id = 'l1'") == 3)
    (event,) = json.loads(run("workflow", "events", "l1", "-o", "json").out)
    assert (event["key"], event["value"]) == ("asked", {"customer": "l1"})
    assert '{"customer":"l1"}' in run("workflow", "events", "l1").out
    assert run("workflow", "stream", "l1", "log").out == '"asked"\n'
    wrong = run("workflow", "send", "l1", "decision", "yes")
    assert wrong.code == 2
    assert """'"yes"'""" in wrong.err
    for topic in ("note", "note", "decision"):
        sent = run("workflow", "send", "l1", topic, '"yes"', "--key", topic)
        assert (sent.code, sent.out) == (0, "l1 has the message\n")
    assert sql.one("SELECT count(*) FROM everstep.message") == 2
    followed = run("workflow", "stream", "l1", "log", "--follow")
    assert (followed.code, followed.out) == (0, '"asked"\n"yes"\n')
    assert run("workflow", "result", "l1", "--timeout", "30s").out == '"yes for l1"\n'
    late = run("workflow", "send", "l1", "decision", '"no"')
    assert (late.code, "has finished" in late.err) == (2, True)


def test_a_result_that_takes_too_long_is_exit_code_7(run: Everstep, database: str):
    start(run, "l1")
    assert run("workflow", "result", "l1", "--timeout", "100ms").code == 7


@pytest.mark.parametrize(
    "words", [("send", "nobody", "t", "1"), ("events", "nobody"), ("stream", "nobody", "k")]
)
def test_nobody_is_told_as_such(run: Everstep, words):
    got = run("workflow", *words)
    assert got.code == 2
    assert "no workflow with id 'nobody'" in got.err


def open_ids(sql: Sql) -> list[str]:
    return [row.id for row in sql("SELECT id FROM everstep.run ORDER BY id")]


def test_all_that_match_are_cancelled_once_somebody_says_yes(
    run: Everstep, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    start(run, "a-1", "a-2", "b-1", "b-2")
    unasked = run("workflow", "cancel", "--id", "a-")
    assert (unasked.code, "add --yes" in unasked.err) == (2, True)
    assert "2 workflows" in unasked.err
    done = run("workflow", "cancel", "--id", "a-", "--yes")
    assert (done.code, done.out) == (0, "2 cancelled\n")
    assert open_ids(sql) == ["b-1", "b-2"]
    for answer, left in (("n\n", ["b-1", "b-2"]), ("y\n", [])):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdin", terminal)
        got = run("workflow", "cancel", "--name", "loan", "--status", "queued")
        assert (got.code == 0) is (left == [])
        assert open_ids(sql) == left
    assert run("workflow", "cancel", "--name", "loan", "--yes").err == "no workflow matches\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say which"),
        (("a-1", "--name", "loan"), "not both"),
        (("--status", "failed"), "failed has finished"),
        (("--status", "odd"), "there is no status odd"),
    ],
)
def test_a_cancel_that_is_unclear_cancels_nothing(run: Everstep, sql: Sql, words, said):
    start(run, "a-1")
    got = run("workflow", "cancel", *words)
    assert (got.code, said in got.err) == (2, True)
    assert open_ids(sql) == ["a-1"]
