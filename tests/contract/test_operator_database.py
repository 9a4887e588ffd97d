"""The operator's side of the contract with the database: views, functions, and not knowing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from support.database import Sql

from everstep_operator import database as database_module
from everstep_operator.database import Databases, RoutingMovedError
from everstep_operator.observed import Known, State, Unknown, Unmigrated

SCHEMA = "everstep"
KEY = "shop/orders"


@pytest.fixture
async def databases() -> AsyncIterator[Databases]:
    opened = Databases()
    yield opened
    await opened.close()


async def known(databases: Databases, url: str) -> Known:
    found = await databases.read(KEY, url, SCHEMA)
    assert isinstance(found, Known), found
    return found


async def test_a_database_without_the_engine_is_not_unknown(
    databases: Databases, empty_database: str
) -> None:
    assert await databases.read(KEY, empty_database, SCHEMA) == Unmigrated()


async def test_routing_moves_at_the_revision_that_was_read_and_only_there(
    databases: Databases, database: str
) -> None:
    start = await known(databases, database)
    assert start.routing.current is None
    await databases.set_routing(KEY, SCHEMA, "v1", start.routing.revision)
    await databases.set_routing(KEY, SCHEMA, "v2", start.routing.revision + 1)
    with pytest.raises(RoutingMovedError):
        await databases.set_routing(KEY, SCHEMA, "v3", start.routing.revision)
    after = await known(databases, database)
    assert after.routing.current == "v2"
    assert {v.version: v.state for v in after.versions} == {
        "v1": State.DRAINING,
        "v2": State.CURRENT,
    }


async def test_a_version_is_drained_by_quiescence_and_retired_after_that(
    databases: Databases, database: str, sql: Sql
) -> None:
    for version, revision in (("v1", 0), ("v2", 1)):
        await known(databases, database)
        await databases.set_routing(KEY, SCHEMA, version, revision)
    assert not await databases.mark_drained(KEY, SCHEMA, "v1")
    sql.advance_clock(31)
    assert await databases.mark_drained(KEY, SCHEMA, "v1")
    row = (await known(databases, database)).version("v1")
    assert row
    assert row.state is State.DRAINED
    assert row.drained_since
    assert await databases.retire_version(KEY, SCHEMA, "v1")
    row = (await known(databases, database)).version("v1")
    assert row
    assert row.state is State.RETIRED


async def test_a_version_that_never_served_is_retired(
    databases: Databases, database: str, sql: Sql
) -> None:
    sql("INSERT INTO everstep.version (version, created_at) VALUES ('v0', now())")
    before = (await known(databases, database)).version("v0")
    assert before
    assert before.state is State.PENDING
    assert await databases.retire_version(KEY, SCHEMA, "v0")
    after = (await known(databases, database)).version("v0")
    assert after
    assert after.state is State.RETIRED


async def test_declaring_a_pod_nobody_knows_dead_changes_nothing(
    databases: Databases, database: str
) -> None:
    await known(databases, database)
    assert await databases.declare_dead(KEY, SCHEMA, "orders-v1-abc") == 0


async def test_a_view_that_errs_is_unknown_and_never_zero(
    databases: Databases, database: str, sql: Sql
) -> None:
    sql("ALTER VIEW everstep.v1_versions RENAME COLUMN parked TO resting")
    found = await databases.read(KEY, database, SCHEMA)
    assert isinstance(found, Unknown)
    assert found.reason == "EngineMismatch"


async def test_a_statement_that_takes_too_long_is_unknown(
    databases: Databases, database: str, sql: Sql
) -> None:
    await known(databases, database)
    blocker = sql.connection
    blocker.autocommit = False
    blocker.execute("LOCK TABLE everstep.worker IN ACCESS EXCLUSIVE MODE")
    found = await databases.read(KEY, database, SCHEMA)
    blocker.rollback()
    assert isinstance(found, Unknown)
    assert "statement timeout" in found.message


@pytest.mark.slow
async def test_a_server_that_stands_still_is_unknown_in_bounded_time(
    databases: Databases, database: str, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen machine, or a network that swallows packets: `statement_timeout` says nothing."""
    await known(databases, database)
    backend = sql.one(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'everstep-operator' AND datname = current_database()"
    )
    os.kill(backend, signal.SIGSTOP)
    try:
        # Only here: a busy server may take as long to connect and answer.
        with monkeypatch.context() as patch:
            patch.setattr(database_module, "_ANSWER_SECONDS", 0.3)
            found = await asyncio.wait_for(databases.read(KEY, database, SCHEMA), 30)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert isinstance(found, Unknown)
    assert found.reason == "Unreachable"
    assert "no answer" in found.message
    await known(databases, database)


async def test_a_role_without_privileges_is_told_what_to_grant(
    databases: Databases, database: str, sql: Sql
) -> None:
    sql("REVOKE ALL ON ALL TABLES IN SCHEMA everstep FROM PUBLIC")
    sql("DROP ROLE IF EXISTS contract_nobody")
    sql("CREATE ROLE contract_nobody LOGIN")
    sql("GRANT USAGE ON SCHEMA everstep TO contract_nobody")
    try:
        sql(
            'ALTER DATABASE "'
            + sql.one("SELECT current_database()")
            + '" SET role = contract_nobody'
        )
        found = await databases.read(KEY, database, SCHEMA)
    finally:
        sql("REVOKE USAGE ON SCHEMA everstep FROM contract_nobody")
        sql(f'ALTER DATABASE "{sql.one("SELECT current_database()")}" RESET role')
    assert isinstance(found, Unknown)
    assert found.reason == "InsufficientPrivilege"
    assert "grant" in found.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("not a connection string", "InvalidUrl"),
        ("postgresql://me:hush-hush@127.0.0.1:1/db", "Unreachable"),
    ],
)
async def test_what_does_not_answer_is_unknown_and_no_password_is_told(
    databases: Databases, url: str, reason: str
) -> None:
    found = await databases.read(KEY, url, SCHEMA)
    assert isinstance(found, Unknown)
    assert found.reason == reason
    assert "hush-hush" not in found.message


async def test_a_lost_connection_is_replaced(databases: Databases, database: str, sql: Sql) -> None:
    await known(databases, database)
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'everstep-operator' AND datname = current_database()"
    )
    await known(databases, database)


async def test_one_application_uses_one_connection(
    databases: Databases, database: str, sql: Sql
) -> None:
    for key in ("a/one", "b/two"):
        await databases.read(key, database, SCHEMA)
    count = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'everstep-operator' AND datname = current_database()"
    )
    assert sql.one(count) == 1
    await databases.forget("a/one")
    assert sql.one(count) == 1
