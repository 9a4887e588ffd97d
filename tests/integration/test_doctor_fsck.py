"""fsck finds every kind of damage (done by hand, with constraints out of the way) and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from support.database import Sql, fresh_database
from support.server import Server
from support.waiting import eventually, eventually_now

import everstep
from everstep import App, Client, Settings, Status, Worker
from everstep.migrations.migrate import migrate
from everstep.store.fsck import fsck, fsck_async, invariants

pytestmark = pytest.mark.no_fsck

LIVE = "00000000-0000-0000-0000-00000000000a"
GONE = "00000000-0000-0000-0000-00000000000b"
OTHER = "00000000-0000-0000-0000-00000000000c"


def app_of_three_steps() -> App:
    app = App("fsck")

    @app.step
    async def one(n: int) -> int:
        return n + 1

    @app.workflow(name="three")
    async def three(n: int) -> int:
        return await one(await one(await one(n)))

    @app.workflow(name="sleeper")
    async def sleeper(n: int) -> int:
        await one(n)
        await everstep.sleep(3_600)
        return n

    return app


@pytest.fixture(scope="module")
def model(postgres: Server) -> Iterator[str]:
    """A database with workflows in every state, left by a real worker; each test damages a copy."""
    with fresh_database(postgres) as name:
        asyncio.run(_work(postgres.url(name)))
        sql = Sql(postgres.url(name))
        sql(
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) VALUES "
            f"('{LIVE}', 'p', 'unversioned', 1, 9, now() - interval '1 h', now() + interval '1 h')"
        )
        sql(
            f"UPDATE everstep.run SET state = 2, worker_id = '{LIVE}', epoch = epoch + 1, wake_at = NULL "
            "WHERE id = 'running'"
        )
        sql.close()
        _wait_until_left(postgres.url(), name)
        yield name


def _wait_until_left(url: str, name: str) -> None:
    """A database with a session in it cannot be copied, and sessions end a moment after their clients."""
    sql = Sql(url)
    alone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = %s"
    eventually_now(lambda: sql.one(alone, [name]))
    sql.close()


async def _work(url: str) -> None:
    """One workflow done, one waiting, one queued, and one that waits and will be made running."""
    app = app_of_three_steps()
    async with Worker(app, Settings(url=url)) as worker:
        await (await worker.client.start(app.workflows["three"], 1, id="done")).result(30)
        for id_ in ("waiting", "running"):
            await worker.client.start(app.workflows["sleeper"], 1, id=id_)
            await eventually(lambda id_=id_: _waits(worker.client, id_))
    async with Client.connect(url) as client:
        await client.start(app.workflows["three"], 2, id="queued")


@pytest.fixture
def database(postgres: Server, model: str) -> Iterator[str]:
    with fresh_database(postgres, template=model) as name:
        yield postgres.url(name)


@pytest.fixture
def healthy(sql: Sql) -> Sql:
    return sql


async def _waits(client: Client, id_: str) -> bool:
    info = await client.get(id_)
    return info is not None and info.status is Status.WAITING


UNKEYED = "ALTER TABLE everstep.checkpoint DROP CONSTRAINT checkpoint_pkey"
UNCHECKED_RUN = "ALTER TABLE everstep.run DROP CONSTRAINT run_check"
UNCHECKED_WORKFLOW = "ALTER TABLE everstep.workflow DROP CONSTRAINT workflow_check"
MESSAGE = (
    "INSERT INTO everstep.message (workflow_id, topic, codec, body, sent_at, consumed_branch, consumed_seq) "
    "VALUES ('running', 't', 1, '1', now(), '', {})"
)
LATE_MESSAGE = (
    "INSERT INTO everstep.message (workflow_id, topic, codec, body, sent_at) "
    "VALUES ('waiting', '{}', 1, '1', now() - interval '1 min')"
)
NO_SLOT_CHECK = "ALTER TABLE everstep.run DROP CONSTRAINT run_check1"
LIMITED = "INSERT INTO everstep.queue (name, max_running, created_at) VALUES ('lim', 1, now())"

DAMAGE = {
    "a duplicate checkpoint": (
        "I1",
        "done",
        UNKEYED,
        "INSERT INTO everstep.checkpoint SELECT * FROM everstep.checkpoint WHERE workflow_id = 'done' LIMIT 1",
    ),
    "a checkpoint emptied": (
        "I1",
        "done",
        "UPDATE everstep.checkpoint SET output = NULL WHERE workflow_id = 'done' AND seq = 2",
    ),
    "a checkpoint of an unknown kind": (
        "I1",
        "done",
        "UPDATE everstep.checkpoint SET kind = 99 WHERE workflow_id = 'done' AND seq = 2",
    ),
    "a checkpoint recorded after the end": (
        "I1",
        "done",
        (
            "UPDATE everstep.checkpoint SET recorded_at = now() + interval '1 h' "
            "WHERE workflow_id = 'done' AND seq = 3"
        ),
    ),
    "a checkpoint without a workflow": (
        "I1",
        "done",
        "DELETE FROM everstep.workflow WHERE id = 'done'",
    ),
    "an epoch that falls": (
        "I2",
        "done",
        "UPDATE everstep.checkpoint SET epoch = 7 WHERE workflow_id = 'done' AND seq = 1",
    ),
    "an open workflow without a run": (
        "I3",
        "waiting",
        "DELETE FROM everstep.run WHERE id = 'waiting'",
    ),
    "a finished workflow with a run": (
        "I3",
        "done",
        "INSERT INTO everstep.run (id, name, queue, ready_at) VALUES ('done', 'three', 'default', now())",
    ),
    "a run without a workflow": (
        "I3",
        "alien",
        "INSERT INTO everstep.run (id, name, queue, ready_at) VALUES ('alien', 'three', 'default', now())",
    ),
    "parts of an ending": (
        "I4",
        "waiting",
        "UPDATE everstep.workflow SET finished_epoch = 1 WHERE id = 'waiting'",
    ),
    "a success without output": (
        "I4",
        "done",
        "UPDATE everstep.workflow SET output = NULL WHERE id = 'done'",
    ),
    "an ending by nobody": (
        "I4",
        "done",
        "UPDATE everstep.workflow SET finished_by = NULL WHERE id = 'done'",
    ),
    "an ending without its time": (
        "I4",
        "done",
        UNCHECKED_WORKFLOW,
        "UPDATE everstep.workflow SET finished_at = NULL WHERE id = 'done'",
    ),
    "running without an owner": (
        "I5",
        "running",
        UNCHECKED_RUN,
        "UPDATE everstep.run SET worker_id = NULL WHERE id = 'running'",
    ),
    "owned without running": (
        "I5",
        "waiting",
        UNCHECKED_RUN,
        f"UPDATE everstep.run SET worker_id = '{LIVE}' WHERE id = 'waiting'",
    ),
    "running without a version": (
        "I5",
        "running",
        "UPDATE everstep.run SET version = NULL WHERE id = 'running'",
    ),
    "a generation that nobody began": (
        "I5",
        "waiting",
        "UPDATE everstep.run SET generation = 10 WHERE id = 'waiting'",
    ),
    "a hand-over that only half happened": (
        "I5",
        "waiting",
        (
            "INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec, "
            "output, seconds, recorded_at) SELECT workflow_id, '~1', 1, 14, name, worker_id, epoch, 1, 1, '{}', 0, "
            "recorded_at FROM everstep.checkpoint WHERE workflow_id = 'waiting' ORDER BY seq DESC LIMIT 1"
        ),
    ),
    "a late write": (
        "I6",
        "done",
        "UPDATE everstep.workflow SET finished_epoch = 2 WHERE id = 'done'",
        (
            "UPDATE everstep.checkpoint SET epoch = 2, recorded_at = (SELECT min(c.recorded_at) FROM "
            "everstep.checkpoint c WHERE c.workflow_id = 'done') - interval '1 us' "
            "WHERE workflow_id = 'done' AND seq = 3"
        ),
    ),
    "two workers at one epoch": (
        "I6",
        "waiting",
        f"UPDATE everstep.checkpoint SET worker_id = '{OTHER}' WHERE workflow_id = 'waiting' AND seq = 1",
    ),
    "a checkpoint from the future": (
        "I6",
        "waiting",
        "UPDATE everstep.checkpoint SET epoch = 99 WHERE workflow_id = 'waiting' AND seq = 2",
    ),
    "an owner that does not exist": (
        "I7",
        "running",
        f"UPDATE everstep.run SET worker_id = '{GONE}' WHERE id = 'running'",
    ),
    "an owner whose lease ran out": (
        "I7",
        "running",
        (
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) VALUES "
            f"('{GONE}', 'p', 'unversioned', 1, 9, now() - interval '1 h', now() - interval '22 s')"
        ),
        f"UPDATE everstep.run SET worker_id = '{GONE}' WHERE id = 'running'",
    ),
    "a message consumed nowhere": ("I8", "running", MESSAGE.format(99)),
    "two messages consumed at once": (
        "I8",
        "running",
        MESSAGE.format(1),
        MESSAGE.format(1),
    ),
    "more slots than allowed": (
        "I9",
        None,
        LIMITED,
        NO_SLOT_CHECK,
        "UPDATE everstep.run SET queue = 'lim', slot = 1 WHERE id = 'running'",
        "UPDATE everstep.run SET queue = 'lim', slot = 2 WHERE id = 'waiting'",
    ),
    "a slot held twice": (
        "I9",
        "running",
        NO_SLOT_CHECK,
        "DROP INDEX everstep.run_slot",
        "UPDATE everstep.run SET queue = 'lim', slot = 1 WHERE id IN ('running', 'waiting')",
    ),
    "a slot held while waiting": (
        "I9",
        "waiting",
        NO_SLOT_CHECK,
        "UPDATE everstep.run SET queue = 'lim', slot = 1 WHERE id = 'waiting'",
    ),
    "a message that nobody was woken for": (
        "I10",
        "waiting",
        "UPDATE everstep.run SET wait_key = 'message:a:b', wake_at = NULL WHERE id = 'waiting'",
        LATE_MESSAGE.format("a:b"),
    ),
    "a message for one of several branches": (
        "I10",
        "waiting",
        """UPDATE everstep.run SET wait_key = '["message:a", "message:b", "sleep"]' WHERE id = 'waiting'""",
        LATE_MESSAGE.format("b"),
    ),
    "a finished workflow that is still awaited": (
        "I10",
        "waiting",
        "UPDATE everstep.run SET wait_key = 'workflow:done', wake_at = NULL WHERE id = 'waiting'",
        (
            "UPDATE everstep.workflow SET finished_at = now() - interval '1 h', "
            "created_at = now() - interval '2 h' WHERE id = 'done'"
        ),
        (
            "UPDATE everstep.checkpoint SET recorded_at = recorded_at - interval '65 min' "
            "WHERE workflow_id = 'done'"
        ),
    ),
    "an event that nobody was woken for": (
        "I10",
        "waiting",
        "UPDATE everstep.run SET wait_key = 'event:a%3A%25:k:l', wake_at = NULL WHERE id = 'waiting'",
        (
            "INSERT INTO everstep.event (workflow_id, key, codec, body, set_at) "
            "VALUES ('a:%', 'k:l', 1, '1', now() - interval '1 min')"
        ),
    ),
    "an event that can no longer come": (
        "I10",
        "waiting",
        "UPDATE everstep.run SET wait_key = 'event:done:k', wake_at = NULL WHERE id = 'waiting'",
        (
            "UPDATE everstep.workflow SET finished_at = now() - interval '1 h', "
            "created_at = now() - interval '2 h' WHERE id = 'done'"
        ),
        (
            "UPDATE everstep.checkpoint SET recorded_at = recorded_at - interval '65 min' "
            "WHERE workflow_id = 'done'"
        ),
    ),
    "a timer that nobody looks at": (
        "I10",
        "waiting",
        "UPDATE everstep.run SET wake_at = now() - interval '22 s' WHERE id = 'waiting'",
    ),
    "a child that was never made": (
        "I12",
        "done",
        (
            'UPDATE everstep.checkpoint SET kind = 8, output = \'{"id": "nobody"}\' '
            "WHERE workflow_id = 'done' AND seq = 2"
        ),
    ),
    "a child that its parent never started": (
        "I12",
        "queued",
        "UPDATE everstep.workflow SET parent_id = 'done' WHERE id = 'queued'",
    ),
    "a lost checkpoint": (
        "I13",
        "done",
        "DELETE FROM everstep.checkpoint WHERE workflow_id = 'done' AND seq = 2",
    ),
    "a lost first checkpoint": (
        "I13",
        "done",
        "DELETE FROM everstep.checkpoint WHERE workflow_id = 'done' AND seq = 1",
    ),
    "an ending below its checkpoints": (
        "I14",
        "done",
        "UPDATE everstep.workflow SET finished_epoch = 0 WHERE id = 'done'",
    ),
    "an ending by another worker": (
        "I14",
        "done",
        f"UPDATE everstep.workflow SET finished_by = '{OTHER}' WHERE id = 'done'",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_reported_with_its_workflow(healthy: Sql, database: str, kind: str):
    assert fsck(database) == []
    invariant, workflow_id, *statements = DAMAGE[kind]
    for statement in statements:
        healthy(statement)
    found = fsck(database)
    assert (invariant, workflow_id) in {(b.invariant, b.workflow_id) for b in found}, found
    assert all(b.what for b in found)


def test_every_invariant_is_damaged_by_some_test():
    elsewhere = {"I11"}  # test_schedules.py damages schedules
    damaged = {invariant for invariant, *_ in DAMAGE.values()} | elsewhere
    assert damaged == set(invariants("everstep")) == {f"I{n}" for n in range(1, 15)}


async def test_an_owner_within_its_grace_is_no_finding(healthy: Sql, database: str):
    healthy(f"UPDATE everstep.worker SET lease_until = now() - interval '5 s' WHERE id = '{LIVE}'")
    healthy(
        "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) VALUES "
        f"('{OTHER}', 'q', 'unversioned', 1, 9, now() - interval '1 h', now() + interval '1 h')"
    )
    assert fsck(database) == []
    assert [b.invariant for b in fsck(database, grace=timedelta(seconds=1))] == ["I7"]


async def test_steps_called_together_may_be_recorded_in_another_order(healthy: Sql, database: str):
    """The worker died when the second of them was recorded and the first was not; its heir recorded that."""
    healthy(
        "WITH w AS (UPDATE everstep.workflow SET finished_epoch = 3, finished_at = finished_at + interval '1 s' "
        "WHERE id = 'done' RETURNING id, finished_at) "
        "UPDATE everstep.checkpoint c SET epoch = 3, recorded_at = w.finished_at FROM w "
        "WHERE w.id = c.workflow_id AND c.seq = 1"
    )
    assert fsck(database) == []


async def test_nobody_left_to_sweep_breaks_no_invariant(healthy: Sql, database: str):
    healthy("UPDATE everstep.worker SET lease_until = now() - interval '1 h'")
    assert fsck(database) == []


async def test_a_wait_with_a_reason_is_no_finding(healthy: Sql, database: str):
    """Messages of other topics, ones that are taken, ones that just came; events and workflows to come."""
    keys = '["message:a", "event:queued:k", "event:done%3A:k", "workflow:queued", "sleep"]'
    healthy(f"UPDATE everstep.run SET wait_key = '{keys}' WHERE id = 'waiting'")
    healthy(LATE_MESSAGE.format("b"))
    healthy(LATE_MESSAGE.format("a"))
    healthy("UPDATE everstep.message SET consumed_branch = '', consumed_seq = 1 WHERE topic = 'a'")
    healthy(LATE_MESSAGE.format("a").replace("interval '1 min'", "interval '1 s'"))
    healthy(
        "INSERT INTO everstep.event VALUES ('queued', 'other', 1, '1', now() - interval '1 min')"
    )
    assert fsck(database) == []


async def test_nobody_left_to_wake_breaks_no_invariant(healthy: Sql, database: str):
    healthy("UPDATE everstep.run SET wake_at = now() - interval '1 h' WHERE id = 'waiting'")
    assert [b.invariant for b in fsck(database)] == ["I10"]
    healthy("UPDATE everstep.worker SET lease_until = now() - interval '1 h'")
    assert fsck(database) == []


async def test_children_of_a_life_before_are_no_finding(healthy: Sql, database: str):
    """A failed workflow that began anew has an empty log, and its children are still there."""
    healthy(
        "UPDATE everstep.workflow SET parent_id = 'waiting', created_at = (SELECT min(recorded_at) "
        "FROM everstep.checkpoint WHERE workflow_id = 'waiting') - interval '1 s' WHERE id = 'queued'"
    )
    assert fsck(database) == []


async def test_since_leaves_out_what_finished_before(healthy: Sql, database: str):
    healthy("DELETE FROM everstep.checkpoint WHERE workflow_id = 'done' AND seq = 2")
    assert await fsck_async(database, since=datetime.now(UTC) + timedelta(minutes=1)) == []
    recent = await fsck_async(database, since=datetime.now(UTC) - timedelta(hours=1))
    assert [b.invariant for b in recent] == ["I13"]


async def test_output_is_bounded(healthy: Sql, database: str):
    healthy(
        "INSERT INTO everstep.run (id, name, queue, ready_at) "
        "SELECT 'alien' || n, 'three', 'default', now() FROM generate_series(1, 500) n"
    )
    assert len(fsck(database)) == 100


def test_fsck_changes_nothing_and_looks_into_its_own_schema(sql: Sql, database: str):
    migrate(database, "second")
    sql("INSERT INTO second.run (id, name, queue, ready_at) VALUES ('x', 'n', 'q', now())")
    assert [(b.invariant, b.workflow_id) for b in fsck(database, "second")] == [("I3", "x")]
    assert fsck(database) == []
    assert sql.one("SELECT count(*) FROM second.run") == 1
