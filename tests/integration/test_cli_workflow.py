"""`everstep workflow`, `queue` and `version` against a real database and a real worker."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.command import Everstep, assert_told, in_process, spawn
from support.database import Sql
from support.waiting import eventually_now

from everstep import Client

SHOP = """
import asyncio, dataclasses
import everstep
from everstep import App, sync
app = App("shop")

@dataclasses.dataclass
class Order:
    id: int
    lines: list[str] = dataclasses.field(default_factory=list)

@app.step
async def price(n: int) -> int:
    return n * 2

@app.workflow(queue="checkout")
async def checkout(order: Order, express: bool = False) -> dict[str, int]:
    return {"total": await price(order.id)}

@app.workflow
async def fails(n: int) -> None:
    raise ValueError("no such order")

@app.workflow
async def gives_up(n: int) -> None:
    try:
        raise OSError("the line is dead")
    except OSError as error:
        raise ValueError("no price") from error

@app.workflow
async def sleeps() -> None:
    await everstep.sleep(3600)

@app.workflow
async def counts(n: int) -> int:
    if n < 11:
        everstep.continue_as_new(n + 1)
    return await price(n)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str):
    """A folder with the module clishop, as the current one, and the database in the environment."""
    (tmp_path / "clishop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    yield tmp_path
    for name in ("clishop", "clisafe"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(shop: Path, capsys) -> Everstep:
    return in_process(capsys)


@pytest.fixture
def working(shop: Path, database: str):
    """A worker process of the shop."""
    log = shop / "worker.log"
    process = spawn(
        "worker", "clishop:app", "--port", "0", cwd=shop, out=log, EVERSTEP_DATABASE_URL=database
    )
    eventually_now(lambda: "runs app shop" in log.read_text() or process.poll(), within=30)
    yield process
    process.terminate()
    assert process.wait(30) == 0, log.read_text()


INPUT = '{"order": {"id": 7, "lines": ["a"]}}'


def test_a_workflow_is_started_waited_for_and_looked_at(run: Everstep, working):
    started = run("workflow", "start", "clishop:app", "checkout", "--input", INPUT, "--id", "o7")
    assert (started.code, started.out) == (0, "o7\n")
    waited = run("workflow", "result", "o7", "--timeout", "30")
    assert (waited.code, json.loads(waited.out)) == (0, {"total": 14})
    again = run(
        "workflow", "start", "clishop:app", "checkout", "--input", INPUT, "--id", "o7", "--wait"
    )
    assert (again.code, json.loads(again.out)) == (0, {"total": 14})
    assert "was there already" in again.err
    got = json.loads(run("workflow", "get", "o7", "-o", "json").out)
    assert got["status"] == "succeeded"
    assert got["queue"] == "checkout"
    # What the code's defaults add is recorded too, as client.start would.
    assert got["input"] == {"order": {"id": 7, "lines": ["a"]}, "express": False}
    (step,) = json.loads(run("workflow", "steps", "o7", "-o", "json").out)
    assert (step["name"], step["output"]) == ("price", 14)
    table = run("workflow", "get", "o7").out
    assert "succeeded" in table
    assert "\x1b" not in table
    assert run("workflow", "steps", "o7").out.splitlines()[0].split()[:3] == [
        "BRANCH",
        "STEP",
        "NAME",
    ]


def test_an_error_is_shown_with_what_caused_it(run: Everstep, working):
    start = ("workflow", "start", "clishop:app", "gives_up", "--input", '{"n": 8}', "--id", "g")
    assert run(*start, "--wait").code == 7
    shown = run("workflow", "get", "g").out
    caused = shown.index("OSError: the line is dead")
    assert caused < shown.index("direct cause of") < shown.index("ValueError: no price\n\n")
    assert (
        "OSError: the line is dead"
        in json.loads(run("workflow", "get", "g", "-o", "json").out)["error_traceback"]
    )


def test_numbers_among_facts_begin_where_the_words_do(run: Everstep, shop: Path):
    run("workflow", "start", "clishop:app", "sleeps", "--id", "s", "--priority", "2")
    lines = run("workflow", "get", "s").out.splitlines()
    (priority,) = [line for line in lines if line.startswith("priority")]
    (status,) = [line for line in lines if line.startswith("status")]
    assert priority.index("2") == status.index("queued")


def test_generations_are_a_column_of_the_steps_where_there_are_any(run: Everstep, working):
    start = ("workflow", "start", "clishop:app", "counts", "--input", '{"n": 8}', "--id", "c")
    assert run(*start, "--wait").out == "22\n"
    lines = [line.split() for line in run("workflow", "steps", "c").out.splitlines()]
    assert lines[0][:4] == ["GENERATION", "BRANCH", "STEP", "NAME"]
    assert [line[:5] for line in lines[1:]] == [
        ["1", "~1", "1", "counts", "continue"],
        ["2", "~2", "1", "counts", "continue"],
        ["3", "~3", "1", "counts", "continue"],
        ["3", "~3", "2", "price", "step"],
    ]


def test_a_start_takes_what_the_client_takes(run: Everstep, shop: Path, sql: Sql):
    start = ("workflow", "start", "clishop:app", "sleeps")
    made = run(
        *(*start, "--partition", "acme", "--priority", "2", "--run-at", "2126-05-01T07:00+02:00"),
        *("--attributes", '{"ward": 7}', "--version", "v9", "--timeout", "2h"),
        *("--deadline", "2126-05-01T09:00Z", "--dedup", "k"),
    )
    assert made.code == 0, made
    (row,) = sql(
        "SELECT r.*, w.attributes, r.deadline - w.created_at AS span FROM everstep.run r JOIN everstep.workflow w USING (id)"
    )
    assert (row.partition, row.priority, row.version, row.dedup) == ("acme", 2, "v9", "k")
    assert (row.attributes, row.span) == ({"ward": 7}, timedelta(hours=2))
    assert row.wake_at == datetime(2126, 5, 1, 5, tzinfo=UTC)
    again = run(*start, "--dedup", "k", "--on-duplicate", "return")
    assert (again.out, "nothing was started" in again.err) == (made.out, True)
    assert_told(run(*start, "--dedup", "k"), 2, "held by workflow")
    assert run(*start, "--id", "one").code == 0
    assert_told(run(*start, "--id", "one", "--on-existing", "reject"), 2, "exists already")
    assert run("workflow", "list", "--attributes", '{"ward": 7}', "-o", "ids").out == made.out
    assert run("workflow", "list", "--attributes", '{"ward": 8}', "-o", "ids").out == ""
    for wrong in (
        ("--run-at", "2126-05-01"),
        ("--run-at", "soon"),
        ("--attributes", "7"),
        ("--wait-timeout", "3"),
    ):
        assert run(*start, *wrong).code == 2, wrong


SAFE = """
from everstep import App

class Reversed:
    id = 101
    def encode(self, body, place): return body[::-1]
    def decode(self, body, place): return body[::-1]

app = App("safe", codec=Reversed())

@app.step
async def double(word: str) -> str:
    return word * 2

@app.workflow
async def doubled(word: str) -> str:
    if word == "no":
        raise ValueError("no it is")
    return await double(word)
"""


def test_payloads_of_a_codec_are_shown_to_whoever_names_the_app(
    run: Everstep, shop: Path, database: str
):
    (shop / "clisafe.py").write_text(SAFE)
    address = {"EVERSTEP_DATABASE_URL": database}
    log = shop / "safe.log"
    process = spawn("worker", "clisafe:app", "--port", "0", cwd=shop, out=log, **address)
    try:
        start = ("workflow", "start", "clisafe:app", "doubled", "--wait")
        assert run(*start, "--id", "s", "--input", '{"word": "ab"}').out == '"abab"\n'
        assert run(*start, "--id", "n", "--input", '{"word": "no"}').code == 7
    finally:
        process.terminate()
        process.wait(30)
    app = ("--app", "clisafe:app")
    got = json.loads(run("workflow", "get", "s", "-o", "json", *app).out)
    assert (got["input"], got["output"]) == ({"word": "ab"}, "abab")
    assert "abab" in run("workflow", "steps", "s", *app).out
    assert run("workflow", "result", "s", *app).out == '"abab"\n'
    assert "no it is" in run("workflow", "list", "--id", "n", *app).out

    sealed = "encoded with codec 101"
    assert run("workflow", "get", "s").out.count(sealed) == 2
    assert sealed in run("workflow", "steps", "s").out
    assert sealed in run("workflow", "list", "--id", "n").out
    got = json.loads(run("workflow", "get", "s", "-o", "json").out)
    assert got["output"]["encoded_with_codec"] == 101
    assert_told(run("workflow", "result", "s"), 2, sealed, "--app MODULE:APP")


def test_starts_are_debounced(run: Everstep, shop: Path, sql: Sql):
    start = ("workflow", "start", "clishop:app", "counts", "--debounce", "k")
    window = ("--debounce-window", "1h", "--debounce-max-wait", "2h")
    first = run(*start, *window, "--input", '{"n": 1}')
    second = run(*start, *window, "--input", '{"n": 2}')
    assert (first.code, second.code, first.out) == (0, 0, second.out)
    assert "has this input now" in second.err
    assert sql("SELECT input, status FROM everstep.workflows") == [({"n": 2}, "waiting")]
    assert_told(run(*start, "--input", '{"n": 1}'), 2, "--debounce-window TIME go together")


async def test_the_same_id_and_input_from_code_is_the_same_workflow(
    run: Everstep, database: str, sql: Sql
):
    from clishop import Order, app  # type: ignore[import-not-found]

    async with Client.connect(database) as client:
        handle = await client.start(app.workflows["checkout"], Order(7, ["a"]), id="o7")
    assert handle.created
    import asyncio

    said = await asyncio.to_thread(
        run, "workflow", "start", "clishop:app", "checkout", "--input", INPUT, "--id", "o7"
    )
    assert said.code == 0, said
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


def test_input_comes_from_an_argument_a_file_or_standard_input(
    run: Everstep, shop: Path, database: str
):
    (shop / "in.json").write_text(INPUT)
    assert run("workflow", "start", "clishop", "checkout", "--input", "@in.json").code == 0
    process = spawn(
        *("workflow", "start", "--name", "checkout", "--input", "-", "--id", "piped"),
        cwd=shop,
        EVERSTEP_DATABASE_URL=database,
    )
    out, err = process.communicate(INPUT)
    assert (process.returncode, out) == (0, "piped\n"), err
    inputs = [
        json.loads(run("workflow", "get", id_, "-o", "json").out)["input"]["order"]
        for id_ in run("workflow", "list", "-o", "ids").out.split()
    ]
    assert inputs == [{"id": 7, "lines": ["a"]}] * 2


def test_how_a_workflow_ends_is_the_exit_code(run: Everstep, working):
    failed = run("workflow", "start", "clishop", "fails", "--input", '{"n": 1}', "--wait")
    assert failed.code == 7
    assert "ValueError: no such order" in failed.err
    assert "Traceback" not in failed.err
    run("workflow", "start", "clishop", "sleeps", "--id", "s")
    late = run("workflow", "result", "s", "--timeout", "200ms")
    assert late.code == 7
    assert "has not finished within 0.2 s" in late.err
    assert run("workflow", "cancel", "s").out == "s is cancelled\n"
    assert run("workflow", "result", "s").code == 7
    assert run("workflow", "cancel", "s").out == "s had finished already\n"


def test_an_id_that_is_none_stands_in_no_other_ones_way(run: Everstep):
    for id_ in ("one", "two"):
        assert run("workflow", "start", "--name", "later", "--id", id_).code == 0
    said = run("workflow", "cancel", "one", "nobody", "two", "nothing")
    assert said.out == "one is cancelled\ntwo is cancelled\n"
    assert (said.code, "with id 'nobody', 'nothing'" in said.err) == (2, True)


def test_lists_are_filtered_and_printed_as_asked(run: Everstep):
    for n in range(3):
        run("workflow", "start", "--name", "a", "--input", f'{{"n": {n}}}', "--id", f"a{n}")
    run("workflow", "start", "--name", "b", "--id", "b0", "--delay", "1h", "--queue", "slow")
    ids = run("workflow", "list", "--name", "a", "-o", "ids").out.split()
    assert ids == ["a2", "a1", "a0"]
    assert run("workflow", "list", "--status", "waiting", "-o", "ids").out == "b0\n"
    assert run("workflow", "list", "--status", "queued,waiting", "-o", "ids").out.count("\n") == 4
    assert run("workflow", "list", "--id", "a1", "-o", "ids").out == "a1\n"
    assert run("workflow", "list", "--queue", "slow", "-o", "ids").out == "b0\n"
    assert run("workflow", "list", "--since", "1h", "-o", "ids").out.count("\n") == 4
    assert json.loads(run("workflow", "list", "--status", "failed", "-o", "json").out) == []
    none = run("workflow", "list", "--status", "failed")
    assert (none.out, none.err) == ("", "no workflow matches\n")
    limited = run("workflow", "list", "--limit", "2")
    assert len(limited.out.splitlines()) == 3
    assert "--limit shows more" in limited.err


def test_queues_are_paused_and_resumed(run: Everstep, sql: Sql):
    run("workflow", "start", "--name", "a", "--queue", "slow")
    assert run("queue", "pause", "slow").out == "queue slow is paused\n"
    assert sql("SELECT name, paused FROM everstep.queue") == [("slow", True)]
    (listed,) = json.loads(run("queue", "list", "-o", "json").out)
    assert (listed["queue"], listed["paused"], listed["ready"]) == ("slow", True, 1)
    assert run("queue", "resume", "slow").out == "queue slow goes on\n"
    assert sql("SELECT paused FROM everstep.queue") == [(False,)]
    assert_told(run("queue", "pause", "slwo"), 2, "no queue named slwo", "Choose from: slow")


def test_a_version_is_promoted_only_if_somebody_runs_it(run: Everstep, working, sql: Sql):
    (row,) = json.loads(run("version", "list", "-o", "json").out)
    assert (row["version"], row["state"], row["workers"]) == ("unversioned", "current", 1)
    assert_told(run("version", "promote", "v2"), 2, "no live worker runs version 'v2'")
    assert sql.one("SELECT current FROM everstep.routing") == "unversioned"
    for nobodys in ("", "v 2", "v" * 65):
        said = run("version", "promote", nobodys, "--force")
        assert_told(said, 2, f"version {nobodys!r}: letters, digits")
    assert sql.one("SELECT current FROM everstep.routing") == "unversioned"
    assert run("version", "promote", "v2", "--force").code == 0
    assert sql.one("SELECT current FROM everstep.routing") == "v2"
    assert run("version", "promote", "unversioned").code == 0
    assert sql.one("SELECT current FROM everstep.routing") == "unversioned"


# -- bad input: what, what to do, the right code, nothing lost --------------------------------------


def test_bad_input_is_told_and_starts_nothing(run: Everstep, shop: Path, sql: Sql):
    start = ("workflow", "start", "clishop:app")
    (shop / "huge.json").write_text(json.dumps({"order": {"id": 1, "lines": ["x" * 2**21]}}))
    cases = [
        (
            (*start, "chekout"),
            "no workflow named 'chekout'",
            "checkout, counts, fails, gives_up, sleeps",
        ),
        ((*start, "checkout", "--input", "{"), "--input is not JSON"),
        ((*start, "checkout", "--input", "[]"), "not a JSON object"),
        ((*start, "checkout", "--input", "@none.json"), "none.json cannot be read", "No such file"),
        ((*start, "checkout", "--input", "{}"), "missing required field `order`", "It takes:"),
        ((*start, "checkout", "--input", '{"order": {"id": "x"}}'), "Expected `int`, got `str`"),
        ((*start, "checkout", "--input", '{"ordr": 1}'), "unknown field `ordr`"),
        ((*start, "checkout", "--input", "@huge.json"), "the limit is 1,048,576", "a reference"),
        (("workflow", "start", "--name", "x", "--input", "@huge.json"), "the limit is 1,048,576"),
        ((*start, "sleeps", "--priority", "9"), "--priority", "See `everstep"),
        ((*start, "sleeps", "--delay", "soon"), "is not a duration"),
        ((*start, "sleeps", "--id", "x" * 600), "1 to 512 bytes"),
        ((*start,), "which workflow?"),
        ((*start, "sleeps", "--name", "x"), "not both"),
        (("workflow", "list", "--status", "done"), "no status done", "succeeded"),
        (("workflow", "get", "nobody"), "no workflow with id 'nobody'", "workflow list"),
        (("workflow", "steps", "nobody"), "no workflow with id 'nobody'"),
        (("workflow", "cancel", "nobody"), "no workflow with id 'nobody'"),
        (("workflow", "result", "nobody"), "no workflow with id 'nobody'"),
        (("workflow", "strat"), "No such command 'strat'"),
    ]
    for arguments, *words in cases:
        assert_told(run(*arguments), 2, *words)
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 0


def test_another_input_under_a_used_id_is_a_conflict_and_changes_nothing(run: Everstep, sql: Sql):
    run("workflow", "start", "clishop", "checkout", "--input", INPUT, "--id", "o7")
    before = sql("SELECT * FROM everstep.workflow"), sql("SELECT * FROM everstep.run")
    other = INPUT.replace("7", "8")
    assert_told(
        run("workflow", "start", "clishop", "checkout", "--input", other, "--id", "o7"),
        2,
        "workflow 'o7' exists already",
        "use another id",
    )
    assert_told(run("workflow", "start", "clishop", "sleeps", "--id", "o7"), 2, "'checkout'")
    assert before == (sql("SELECT * FROM everstep.workflow"), sql("SELECT * FROM everstep.run"))


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("postgresql://me:sesame@127.0.0.1:1/x", 3, "cannot connect to Postgres at 127.0.0.1:1/x"),
        ("postgresql//me:sesame@host/x", 2, "the database URL is malformed"),
        ("host=127.0.0.1 port=1 password=sesame user=me", 3, "cannot connect"),
    ],
)
def test_a_wrong_database_is_told_without_its_password(run: Everstep, url: str, code: int, words):
    for command in (
        ("workflow", "list"),
        ("workflow", "start", "clishop", "sleeps"),
        ("queue", "list"),
        ("version", "list"),
        ("migrate",),
        ("doctor",),
        ("worker", "clishop", "--port", "0"),
    ):
        said = run(*command, "--database", url)
        assert_told(said, code, words)
        assert "sesame" not in said.err


def test_no_database_at_all_is_told(run: Everstep, monkeypatch):
    monkeypatch.delenv("EVERSTEP_DATABASE_URL")
    assert_told(run("workflow", "list"), 2, "no database: set EVERSTEP_DATABASE_URL")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "UPDATE everstep.migration SET number = 99, oldest_code = 99 WHERE number = (SELECT max(number) FROM everstep.migration WHERE origin = 'engine')",
            ("too new",),
        ),
        (
            "UPDATE everstep.migration SET number = 0 WHERE number = (SELECT max(number) FROM everstep.migration WHERE origin = 'engine')",
            ("too old", "everstep migrate"),
        ),
        ("DELETE FROM everstep.migration", ("no engine schema", "everstep migrate")),
        ("DROP SCHEMA everstep CASCADE", ("no engine schema", "everstep migrate")),
    ],
)
@pytest.mark.no_fsck
def test_a_schema_that_does_not_fit_is_exit_code_4(run: Everstep, sql: Sql, change, words):
    sql(change)
    for command in (
        ("workflow", "list"),
        ("workflow", "start", "clishop", "sleeps"),
        ("queue", "list"),
        ("worker", "clishop", "--port", "0"),
    ):
        assert_told(run(*command), 4, *words)
