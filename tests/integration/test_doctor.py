"""`everstep doctor`: each finding from a database that really has it, with its severity and remedy."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest
from support.command import Everstep, in_process
from support.database import Sql
from support.waiting import eventually

from everstep import App, Client, Settings
from everstep.doctor import Finding, Severity, examine

WORKER = (
    "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) VALUES "
    "('00000000-0000-0000-0000-00000000000{n}', 'pod-{n}', '{version}', {state}, 10, "
    "now() - interval '1 h', now() + interval '{lease}')"
)


async def findings(url: str, **options) -> list[Finding]:
    """What doctor finds, but for what the tests' own server does on purpose: it is not durable."""
    found = await examine(Settings(url=url), **options)
    return [finding for finding in found if finding.check != "durability"]


async def only(url: str) -> Finding:
    (finding,) = await findings(url)
    assert finding.remedy
    return finding


@pytest.fixture
def run(capsys, database: str, monkeypatch) -> Everstep:
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    return in_process(capsys)


async def test_a_healthy_database_has_no_findings(database: str, app: App, worker):
    @app.workflow(name="w")
    async def w() -> None: ...

    one = await worker(app)
    await (await one.client.start(w)).result(30)
    assert await findings(database) == []


def test_the_tests_own_server_is_not_durable_and_doctor_says_so(run: Everstep):
    said = run("doctor", "-o", "json")
    assert said.code == 6
    found = json.loads(said.out)
    assert {f["what"].split()[0] for f in found} == {"fsync", "full_page_writes"}
    assert {f["severity"] for f in found} == {"error"}
    text = run("doctor")
    assert text.code == 6
    assert "error   durability: fsync is off" in text.out
    assert "2 errors, 0 warnings" in text.out


async def test_synchronous_commit_off_is_an_error(database: str):
    url = database + "&options=-c%20synchronous_commit%3Doff"
    found = [f for f in await examine(Settings(url=url)) if "synchronous_commit" in f.what]
    assert [f.severity for f in found] == [Severity.ERROR]


@pytest.mark.no_fsck
async def test_a_broken_invariant_is_an_error_with_its_workflow(database: str, sql: Sql):
    sql("INSERT INTO everstep.run (id, name, queue, ready_at) VALUES ('x', 'n', 'q', now())")
    found = [f for f in await findings(database) if f.check == "I3"]
    assert [(f.severity, f.workflow_id) for f in found] == [(Severity.ERROR, "x")]


@pytest.mark.no_fsck
async def test_a_gap_is_a_warning_and_since_leaves_out_old_ones(
    database: str, sql: Sql, app: App, worker
):
    @app.step
    async def s() -> None: ...

    @app.workflow(name="w")
    async def w() -> None:
        await s()
        await s()

    one = await worker(app)
    await (await one.client.start(w, id="gap")).result(30)
    sql("DELETE FROM everstep.checkpoint WHERE seq = 1")
    finding = await only(database)
    assert (finding.check, finding.severity) == ("I13", Severity.WARNING)
    sql("UPDATE everstep.workflow SET created_at = created_at - interval '2 d'")
    sql("UPDATE everstep.checkpoint SET recorded_at = recorded_at - interval '2 d'")
    sql("UPDATE everstep.workflow SET finished_at = finished_at - interval '2 d'")
    assert await findings(database, since=timedelta(days=1)) == []
    assert [f.check for f in await findings(database)] == ["I13"]


@pytest.mark.no_fsck
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "UPDATE everstep.migration SET number = 99, oldest_code = 99 WHERE number = (SELECT max(number) FROM everstep.migration)",
            "too new",
        ),
        (
            "UPDATE everstep.migration SET number = 0 WHERE number = (SELECT max(number) FROM everstep.migration)",
            "too old",
        ),
        ("DROP SCHEMA everstep CASCADE", "no engine schema"),
    ],
)
async def test_a_schema_that_does_not_fit_is_the_only_finding(
    database: str, sql: Sql, change: str, words: str
):
    sql(change)
    finding = await only(database)
    assert (finding.check, finding.severity) == ("schema", Severity.ERROR)
    assert words in finding.what


async def test_a_half_applied_migration_is_an_error(database: str, sql: Sql):
    sql(
        "INSERT INTO everstep.migration (origin, number, file, checksum, state, started_at, applied_by) "
        "VALUES ('user', 1, '0001_index.sql', '', 'started', now(), 'me')"
    )
    finding = await only(database)
    assert (finding.check, finding.severity) == ("migrations", Severity.ERROR)
    assert "0001_index.sql" in finding.what


async def test_statements_the_role_may_not_run_are_named(database: str, sql: Sql):
    sql("DROP ROLE IF EXISTS doctor_weak")
    sql("CREATE ROLE doctor_weak LOGIN")
    try:
        sql("GRANT USAGE ON SCHEMA everstep TO doctor_weak")
        sql("GRANT SELECT ON ALL TABLES IN SCHEMA everstep TO doctor_weak")
        sql("GRANT INSERT, UPDATE, DELETE ON everstep.run TO doctor_weak")
        found = await findings(database.replace("postgres@", "doctor_weak@"))
        assert {f.check for f in found} == {"privileges"}
        text = " ".join(f.what for f in found)
        assert "permission denied for table worker" in text
        assert "beat" in text
        assert "table run" not in text
        # Nothing was run, only asked.
        assert sql.one("SELECT count(*) FROM everstep.worker") == 0
    finally:
        sql("DROP OWNED BY doctor_weak")
        sql("DROP ROLE doctor_weak")


async def test_a_role_that_may_not_even_look_is_told_so(database: str, sql: Sql):
    sql("CREATE ROLE doctor_stranger LOGIN")
    try:
        (finding,) = await findings(database.replace("postgres@", "doctor_stranger@"))
        assert (finding.check, finding.severity) == ("privileges", Severity.ERROR)
        assert "permission denied for schema everstep" in finding.what
        assert "GRANT" in finding.remedy
    finally:
        sql("DROP ROLE doctor_stranger")


async def test_a_dead_worker_that_nobody_rescues_from_is_an_error(
    database: str, sql: Sql, client: Client
):
    await client.start_named("w", {}, id="held")
    sql(WORKER.format(n=1, version="v1", state=1, lease="-1 h"))
    sql(
        "UPDATE everstep.run SET state = 2, version = 'v1', epoch = 1, "
        "worker_id = '00000000-0000-0000-0000-000000000001'"
    )
    finding = await only(database)
    assert (finding.check, finding.severity) == ("dead-workers", Severity.ERROR)
    assert (finding.workflow_id, "pod-1" in finding.what) == ("held", True)
    sql("UPDATE everstep.worker SET lease_until = now() - interval '5 s'")
    assert await findings(database) == []


async def test_workflows_that_nobody_live_can_run_are_errors(
    database: str, sql: Sql, client: Client
):
    await client.start_named("w", {}, id="first")
    finding = await only(database)
    assert (finding.check, finding.severity) == ("stranded", Severity.ERROR)
    assert "no version is the current one" in finding.what
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    assert "wait for the current version v1" in (await only(database)).what
    sql(WORKER.format(n=1, version="v1", state=1, lease="1 h"))
    assert await findings(database) == []
    sql("UPDATE everstep.run SET version = 'v0'")
    finding = await only(database)
    assert "belong to version v0" in finding.what
    assert "EVERSTEP_VERSION=v0" in finding.remedy


async def test_ready_work_that_live_workers_leave_alone_is_a_warning(
    database: str, sql: Sql, client: Client
):
    sql("SELECT everstep.set_routing('v1', NULL, 0, NULL)")
    sql(WORKER.format(n=1, version="v1", state=1, lease="1 h"))
    await client.start_named("unknown", {}, id="left", queue="nobodys")
    assert await findings(database) == []
    sql("UPDATE everstep.run SET ready_at = now() - interval '61 s'")
    finding = await only(database)
    assert (finding.check, finding.severity) == ("unclaimed", Severity.WARNING)
    assert "unknown on queue nobodys" in finding.what
    sql("INSERT INTO everstep.queue (name, paused, created_at) VALUES ('nobodys', true, now())")
    finding = await only(database)
    assert (finding.check, finding.severity) == ("paused", Severity.WARNING)
    assert "everstep queue resume nobodys" in finding.remedy


async def test_an_old_transaction_that_holds_back_vacuum_is_a_warning(
    database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("everstep.doctor.HORIZON_SECONDS", 0.05)
    with psycopg.connect(database, application_name="forgotten") as idle:
        idle.execute("CREATE TEMP TABLE t (n int)")

        async def seen() -> list[Finding]:
            return [f for f in await findings(database) if "forgotten" in f.what]

        (finding,) = await eventually(seen)
        assert finding.severity is Severity.WARNING
        assert f"pg_terminate_backend({idle.info.backend_pid})" in finding.remedy
    assert [f for f in await findings(database) if "forgotten" in f.what] == []
