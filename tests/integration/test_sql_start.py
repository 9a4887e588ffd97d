"""Starts and limits in SQL: the options and refusals of Python's, in words and with what to do."""

from __future__ import annotations

import json
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from conftest import StartWorker
from psycopg import errors
from support.database import Sql
from support.waiting import BLOCKED_BY, eventually

from everstep import (
    App,
    Client,
    DuplicateWorkflowError,
    PayloadError,
    UsageError,
    WorkflowConflictError,
    WorkflowExistsError,
    WorkflowTimeoutError,
)

INPUT = '{"number": 1}'


def refused(sql: Sql, call: str, arguments: list[Any] | None = None) -> errors.Diagnostic:
    """What the server says of a call that it refuses as a wrong value."""
    with pytest.raises(errors.InvalidParameterValue) as caught:
        sql(f"SELECT everstep.{call}", arguments)
    assert caught.value.diag.message_hint
    return caught.value.diag


def start(sql: Sql, options: str = "", input: str = INPUT, name: str = "work") -> str:
    return str(sql.one(f"SELECT everstep.start(%s, %s{options})", [name, input]))


WRONG = {
    "name => ''": "a workflow has a printable name of 1 to 200 bytes, not ''",
    "name => NULL": "a start needs the name of a workflow",
    "name => repeat('n', 201)": "a workflow has a printable name of 1 to 200 bytes, not 'nnn",
    "name => E'a\\u200bb'": "a workflow has a printable name of 1 to 200 bytes",
    "input => '[1]'": r"input is a JSON object of the workflow's parameters by name, not '\[1\]'",
    "input => NULL": "input is a JSON object of the workflow's parameters by name, not null",
    "id => ''": "a workflow id is a text of 1 to 512 bytes, not ''",
    "id => repeat('i', 513)": "a workflow id is a text of 1 to 512 bytes, not 'iii",
    "queue => ''": "a queue has a printable name of 1 to 200 bytes, not ''",
    "queue => E'a\\nb'": "a queue has a printable name",
    "queue => E'a\\u00a0b'": "a queue has a printable name",
    "queue => repeat('\u00fc', 101)": "a queue has a printable name",
    "partition => ''": "a partition is a text of 1 to 200 bytes, not ''",
    "version => 'v 1'": "a version is letters, digits, dots, .* at most 64, .* not 'v 1'",
    "dedup => repeat('d', 513)": "a deduplication key is a text of 1 to 512 bytes",
    "priority => 4": r"priority is 0 \(first\) to 3 \(last\), not 4",
    "priority => -1": "priority is 0 .* not -1",
    "priority => NULL": "priority is 0 .* not null",
    "delay => interval '-1 second'": "delay is between 0 seconds and 100 years, not -00:00:01",
    "delay => interval '101 years'": "delay is between 0 seconds and 100 years, not 101 years",
    "timeout => interval '-1 second'": "timeout is between 0 seconds and 100 years",
    "run_at => 'infinity'": "run_at is an instant in the years 1 to 9999, not infinity",
    "deadline => '-infinity'": "deadline is an instant in the years 1 to 9999",
    "deadline => '12000-01-01'": "deadline is an instant in the years 1 to 9999",
    "delay => interval '1 s', run_at => now()": "delay and run_at both say when it may begin",
    """attributes => jsonb_build_object('a b', repeat('x', 65527))""": "attributes of a workflow: the payload is 65,537 bytes",
    "attributes => '[]'": r"attributes are a JSON object, not '\[\]'",
    "dedup => 'k', on_duplicate => 'ignore'": "on_duplicate is one of reject, return, not 'ignore'",
    "dedup => 'k', on_duplicate => NULL": "on_duplicate is one of reject, return, not null",
    "id => 'i', on_existing => 'replace'": "on_existing is one of return, reject, not 'replace'",
    "id => 'i', on_existing => 'restart'": "on_existing => 'restart' is no part of a transaction",
    "on_existing => 'reject'": "on_existing => 'reject' is about an earlier id",
    "on_duplicate => 'return'": "on_duplicate => 'return' is about an earlier dedup",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_option_is_named_and_nothing_is_started(sql: Sql, options: str) -> None:
    given = "" if options.startswith("name") else "name => 'work', "
    given += "" if options.startswith("input") else "input => '{}', "
    told = refused(sql, f"start({given}{options})")
    assert re.match(WRONG[options], str(told.message_primary))
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 0


async def test_what_sql_refuses_python_refuses_too(client: Client, sql: Sql) -> None:
    """And neither refuses what is just right."""
    for options in (
        {"priority": 4}, {"delay": -1}, {"timeout": -1}, {"queue": ""}, {"id": ""}, {"partition": ""},
        {"id": "i" * 513}, {"queue": "q" * 201}, {"version": "v" * 65}, {"version": "v 1"}, {"version": "v1\n"}, {"dedup": "d" * 513},
        {"on_existing": "reject"}, {"on_duplicate": "return"}, {"delay": 100 * 366 * 86_400 + 1},
        {"delay": 1, "run_at": datetime.now(UTC)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            await client.start_named("work", {}, **options)
        refused(sql, f"start('work', '{{}}', {named(options)})", converted(options))
    for number, options in enumerate((
        {"priority": 0}, {"priority": 3}, {"delay": 0}, {"delay": 100 * 366 * 86_400}, {"timeout": 0},
        {"queue": "q" * 200}, {"queue": None}, {"id": "i" * 512}, {"version": "v" * 64}, {"version": "1.2_3-v"},
        {"partition": "p" * 200}, {"dedup": "d" * 512}, {"attributes": None},
        {"delay": 0, "run_at": datetime.now(UTC)}, {"deadline": datetime.now(UTC)},
    )):  # fmt: skip
        here, there = dict(options), dict(options)
        if "dedup" in options:
            there["queue"] = "elsewhere"
        await client.start_named(f"work-{number}", {}, **here)
        if "id" in options:
            there["id"] = "j" * 512
        sql(f"SELECT everstep.start('work', '{{}}', {named(there)})", converted(there))


@pytest.mark.parametrize("name", ["", "n" * 201, "\u00fc" * 101, "a\nb", "a\u2028b", "\ue000"])
async def test_names_of_workflows_and_queues_are_refused_in_the_same_words(
    client: Client, sql: Sql, name: str
) -> None:
    for given, options in ((name, {}), ("work", {"queue": name})):
        with pytest.raises(UsageError) as python:
            await client.start_named(given, {}, **options)
        call = f"start(%s, '{{}}'{', queue => %s' if options else ''})"
        told = refused(sql, call, [given, *options.values()])
        same = " has a printable name of 1 to 200 bytes, not "
        words = str(python.value).partition(same)
        assert words[1] == same
        assert str(told.message_primary).startswith(words[0] + same)
    await client.start_named("n" * 200, {}, queue="\u00fc" * 100)
    assert sql.one("SELECT everstep.start(%s, '{}', queue => %s)", ["n" * 200, "\u00fc" * 100])


def test_printable_is_what_it_is_in_python(sql: Sql) -> None:
    """But for what Unicode has not assigned, which is another matter in each version of Python."""
    query = "SELECT n FROM generate_series(1, 1114111) n WHERE n NOT BETWEEN 55296 AND 57343 AND NOT everstep.printable(chr(n))"
    unprintable = {row.n for row in sql(query)}
    assigned = [n for n in range(1, 0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
    assert [n for n in assigned if chr(n).isprintable() == (n in unprintable)] == []


async def test_attributes_are_as_large_as_in_python(client: Client, sql: Sql) -> None:
    """jsonb is written with spaces between its parts, which do not count."""
    attributes = {f"key \\ {n:05}": ['say "a, b: c"', n % 10] for n in range(1_560)}
    body = json.dumps(attributes, separators=(",", ":"))
    attributes["rest"] = "x" * (65_536 - len(body) - len(',"rest":""'))
    call = "SELECT everstep.start('work', '{}', attributes => %s)"
    await client.start_named("work", {}, attributes=attributes)
    sql(call, [json.dumps(attributes)])
    attributes["rest"] += "x"
    with pytest.raises(PayloadError, match="the payload is 65,537 bytes, the limit is 65,536"):
        await client.start_named("work", {}, attributes=attributes)
    with pytest.raises(
        errors.InvalidParameterValue, match="the payload is 65,537 bytes, the limit is 65,536"
    ):
        sql(call, [json.dumps(attributes)])


def test_the_view_has_the_partition_and_the_key_of_what_is_open(sql: Sql) -> None:
    id_ = start(sql, ", partition => 'p', dedup => 'k'")
    assert sql("SELECT id, partition, dedup FROM everstep.workflows") == [(id_, "p", "k")]


def named(options: dict[str, Any]) -> str:
    return ", ".join(f"{option} => %s" for option in options)


def converted(options: dict[str, Any]) -> list[Any]:
    """Seconds as SQL takes them."""
    lengths = ("delay", "timeout")
    return [
        timedelta(seconds=value) if option in lengths else value
        for option, value in options.items()
    ]


def test_of_deadline_and_timeout_the_earlier_one_holds(sql: Sql) -> None:
    soon, later = datetime(2100, 1, 1, tzinfo=UTC), datetime(2190, 1, 1, tzinfo=UTC)
    for deadline, timeout in ((soon, timedelta(days=36_000)), (later, timedelta(hours=1))):
        sql(
            "SELECT everstep.start('work', '{}', deadline => %s, timeout => %s)",
            [deadline, timeout],
        )
    first, second = (
        row.deadline for row in sql("SELECT deadline FROM everstep.run ORDER BY ready_at")
    )
    assert first == soon
    assert second < datetime.now(UTC) + timedelta(hours=2)


async def test_a_deadline_that_has_passed_cancels(
    app: App, worker: StartWorker, client: Client, sql: Sql
) -> None:
    @app.workflow(name="work")
    async def work(number: int) -> int:
        return number

    id_ = start(sql, ", deadline => now() - interval '1 second'")
    await worker()
    with pytest.raises(WorkflowTimeoutError):
        await client.handle(work, id_).result(30)


async def test_a_key_that_is_taken_is_refused_as_in_python_or_gives_its_holder(
    client: Client, sql: Sql
) -> None:
    first = await client.start_named("work", {"number": 1}, dedup="k")
    with pytest.raises(errors.UniqueViolation) as caught:
        start(sql, ", dedup => 'k'")
    said = f"deduplication key 'k' is held by workflow '{first.id}' until that finishes"
    assert caught.value.diag.message_primary == said
    assert "on_duplicate => 'return'" in str(caught.value.diag.message_hint)
    with pytest.raises(DuplicateWorkflowError) as python:
        await client.start_named("work", {"number": 1}, dedup="k")
    assert str(python.value).startswith(said)
    again = start(sql, ", dedup => 'k', on_duplicate => 'return'", '{"number": 2}')
    assert again == first.id
    assert start(sql, ", dedup => 'k', queue => 'other'") != first.id
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 2
    # Its own id is no duplicate, but the same start once more.
    assert start(sql, f", dedup => 'k', id => '{first.id}'") == first.id


async def somebody_waits_for(sql: Sql, holder: psycopg.Connection[Any]) -> None:
    await eventually(lambda: sql.one(BLOCKED_BY, [holder.info.backend_pid]) == 1)


async def test_two_transactions_that_race_for_a_key_start_one_workflow(
    database: str, sql: Sql
) -> None:
    """The second one has looked and seen nobody when the first one commits."""
    call = "SELECT everstep.start('work', '{}', id => %s, dedup => 'k', on_duplicate => %s)"
    for number, policy in enumerate(("return", "reject")):
        sql("DELETE FROM everstep.run")
        sql("DELETE FROM everstep.workflow")
        sql("DELETE FROM everstep.metric_delta")
        with (
            psycopg.connect(database) as one,
            psycopg.connect(database) as two,
            ThreadPoolExecutor(1) as thread,
        ):
            one.execute(call, [f"first-{number}", policy])
            second = thread.submit(two.execute, call, [f"second-{number}", policy])
            await somebody_waits_for(sql, one)
            one.commit()
            if policy == "return":
                assert second.result(30).fetchone() == (f"first-{number}",)
            else:
                with pytest.raises(errors.UniqueViolation, match="held by workflow 'first-1'"):
                    second.result(30)
                two.rollback()
        assert [row.id for row in sql("SELECT id FROM everstep.workflow")] == [f"first-{number}"]
        assert sql.one("SELECT sum(n) FROM everstep.metric_delta WHERE kind = 1") == 1


async def test_a_key_that_is_given_up_while_another_waits_for_it_is_free(
    database: str, sql: Sql
) -> None:
    call = "SELECT everstep.start('work', '{}', id => %s, dedup => 'k')"
    with (
        psycopg.connect(database) as one,
        psycopg.connect(database, autocommit=True) as two,
        ThreadPoolExecutor(1) as thread,
    ):
        one.execute(call, ["first"])
        second = thread.submit(two.execute, call, ["second"])
        await somebody_waits_for(sql, one)
        one.rollback()
        assert second.result(30).fetchone() == ("second",)


async def test_an_id_that_exists_is_met_as_in_python(client: Client, sql: Sql) -> None:
    assert start(sql, ", id => 'mine'") == "mine"
    assert start(sql, ", id => 'mine', on_existing => 'return'", '{"number": 1.0}') == "mine"
    with pytest.raises(errors.UniqueViolation) as caught:
        start(sql, ", id => 'mine', on_existing => 'reject'")
    assert caught.value.diag.message_primary == "workflow 'mine' exists already"
    with pytest.raises(WorkflowExistsError, match="workflow 'mine' exists already"):
        await client.start_named("work", {"number": 1}, id="mine", on_existing="reject")

    with pytest.raises(errors.UniqueViolation) as caught:
        start(sql, ", id => 'mine', on_existing => 'reject'", '{"number": 2}')
    said = caught.value.diag.message_primary
    assert said is not None
    assert said.endswith("""it has the input '{"number": 1}', not '{"number": 2}'""")
    assert "use another id" in str(caught.value.diag.message_hint)
    with pytest.raises(WorkflowConflictError, match=r"has the input .* not "):
        await client.start_named("work", {"number": 2}, id="mine")
    with pytest.raises(errors.UniqueViolation, match="is of workflow 'work', not 'other'"):
        start(sql, ", id => 'mine'", name="other")
    sql("UPDATE everstep.workflow SET codec = 100, input = '\\x0064'")
    with pytest.raises(errors.UniqueViolation, match="an input that SQL cannot read"):
        start(sql, ", id => 'mine'")


def test_a_call_by_position_keeps_its_meaning(sql: Sql) -> None:
    sql(
        "SELECT everstep.start('work', '{}', 'i', 'q', 2, NULL, NULL, interval '1 hour', 'k', '{\"a\": 1}', 'v', 'p')"
    )
    (row,) = sql("SELECT id, queue, priority, dedup, version, partition FROM everstep.run")
    assert tuple(row) == ("i", "q", 2, "k", "v", "p")
    assert sql.one("SELECT count(*) FROM pg_proc WHERE pronamespace = 'everstep'::regnamespace "
                   "AND proname IN ('start', 'debounce')") == 2  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("key => ''", "a debounce key is a text of 1 to 512 bytes"),
        ("time_window => interval '101 years'", "time_window is between 0 seconds and 100 years"),
        ("max_wait => interval '1 s'", "a max_wait that is not shorter, not 00:01:00 and 00:00:01"),
        ("priority => 9", "priority is 0"),
        ("queue => ''", "a queue has a printable name"),
        ("partition => ''", "a partition is a text"),
    ],
)
def test_a_debounce_is_refused_likewise(sql: Sql, options: str, said: str) -> None:
    wanted = {"key": "'k'", "time_window": "interval '1 minute'"}
    rest = "".join(
        f", {name} => {value}" for name, value in wanted.items() if not options.startswith(name)
    )
    assert said in str(refused(sql, f"debounce('work', '{{}}', {options}{rest})").message_primary)
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 0


def test_a_debounce_has_a_deadline(sql: Sql) -> None:
    sql("SELECT everstep.debounce('work', '{}', 'k', interval '1 s', deadline => '2100-01-01Z')")
    assert sql.one("SELECT deadline FROM everstep.run") == datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            '{"max_runing": 3, "limit": 1}',
            "queue q: there is no limit limit, max_runing; there are worker_concurrency, max_running, partition_max_running",
        ),
        ("[]", "a change of queue q is a JSON object, not '[]'"),
        ('{"max_running": 0}', "queue q: max_running is a whole number of at least 1, not '0'"),
        ('{"max_running": 1.5}', "queue q: max_running is a whole number of at least 1"),
        ('{"max_running": 2147483648}', "queue q: max_running is a whole number"),
        ('{"worker_concurrency": "many"}', "queue q: worker_concurrency is a whole number"),
        ('{"rate": 5}', "queue q: rate is [starts, seconds, burst]"),
        ('{"rate": [5, 1]}', "queue q: rate is [starts, seconds, burst]"),
        ('{"rate": [5, 0, 1]}', "queue q: rate is [starts, seconds, burst]"),
        ('{"partition_rate": [0, 1, 1]}', "queue q: partition_rate: starts is a whole number"),
        ('{"partition_rate": [5, 1, null]}', "burst is a whole number of at least 1, not null"),
    ],
)
def test_a_limit_that_there_is_not_is_refused_with_those_there_are(
    sql: Sql, change: str, said: str
) -> None:
    told = refused(sql, "set_queue('q', %s)", [change]).message_primary
    assert told is not None
    assert told.startswith(said) or told.endswith(said)
    assert sql("SELECT name FROM everstep.queue") == []


def test_the_limits_that_there_are_are_set_and_lifted(sql: Sql) -> None:
    sql("""SELECT everstep.set_queue('q', '{"max_running": 2147483647, "rate": [10, 0.5, 2],
           "worker_concurrency": "3", "partition_max_running": 4, "partition_rate": [1, 31622400, 1]}')""")
    columns = "max_running, worker_concurrency, rate, partition_max_running, partition_rate"
    (row,) = sql(f"SELECT {columns} FROM everstep.queue")
    assert tuple(row) == (2_147_483_647, 3, 10, 4, 1)
    sql("""SELECT everstep.set_queue('q', '{"max_running": null, "rate": null}')""")
    (row,) = sql(f"SELECT {columns} FROM everstep.queue")
    assert tuple(row) == (None, 3, None, 4, 1)
    assert refused(sql, "set_queue('', '{}')").message_primary is not None
