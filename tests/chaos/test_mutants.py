"""The protocol is held by these checks, and each check is held by a mutant of the protocol that it kills.

A check asks the real statements, and fails with AssertionError where they break the rule it is named after. For
every mutant, one statement is changed as a mistake would change it, and the named check must fail then.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from uuid import UUID, uuid4

import pytest
from psycopg.errors import LockNotAvailable
from support.database import Sql, fresh_database
from support.protocol import queue, two_workers
from support.races import Rewrite, race_late_checkpoints
from support.server import Server
from support.wakeups import RACES, race_wake_ups

from everstep import App, Settings, Worker
from everstep.store.connection import connect

Check = Callable[[str, Rewrite], Awaitable[None]]


async def an_old_epoch_records_nothing(url: str, rewrite: Rewrite) -> None:
    """The same worker, released and claimed anew: what it began before is void."""
    async with two_workers(url, rewrite) as (one, _):
        (old,) = await one.claim()
        await one.release()
        (new,) = await one.claim()
        assert new.epoch == old.epoch + 2
        assert (await one.record("w", old.epoch)).leftovers == ["w"]
        assert await one.execute("SELECT count(*) FROM everstep.checkpoint") == 0
        assert (await one.record("w", new.epoch)).leftovers == []


async def another_worker_at_the_same_epoch_records_nothing(url: str, rewrite: Rewrite) -> None:
    """After a failover that lost commits, epochs may repeat; the worker's uuid does not."""
    async with two_workers(url, rewrite) as (one, two):
        (claimed,) = await one.claim()
        assert (await two.record("w", claimed.epoch)).leftovers == ["w"]
        assert await one.execute("SELECT count(*) FROM everstep.checkpoint") == 0


async def an_old_epoch_finishes_nothing(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        (old,) = await one.claim()
        await one.release()
        await one.claim()
        assert (await one.finish("w", old.epoch)).leftovers == ["w"]
        assert await one.execute("SELECT status FROM everstep.workflow") == 0
        assert await one.execute("SELECT count(*) FROM everstep.run") == 1


async def an_old_epoch_parks_nothing(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        (old,) = await one.claim()
        await one.release()
        await one.claim()
        assert (await one.park("w", old.epoch)).leftovers == ["w"]
        assert await one.execute("SELECT state FROM everstep.run") == 2


async def an_old_epoch_begins_no_generation(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        (old,) = await one.claim()
        await one.release()
        await one.claim()
        assert (await one.hand_over("w", old.epoch)).leftovers == ["w"]
        assert await one.execute("SELECT generation FROM everstep.run WHERE state = 2") == 0
        assert await one.execute("SELECT count(*) FROM everstep.checkpoint") == 0


async def a_cancelled_workflow_begins_no_generation(url: str, rewrite: Rewrite) -> None:
    """It stays with its owner, who ends it, and nothing says that it went on."""
    async with two_workers(url, rewrite) as (one, _):
        (claimed,) = await one.claim()
        await one.execute("UPDATE everstep.run SET cancel = true")
        reply = await one.hand_over("w", claimed.epoch)
        assert (reply.cancels, reply.leftovers) == (["w"], [])
        assert await one.execute("SELECT generation FROM everstep.run WHERE state = 2") == 0
        assert await one.execute("SELECT count(*) FROM everstep.checkpoint") == 0


async def a_generation_knows_its_own_log_only(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        for generation in range(1, 12):
            (claimed,) = await one.claim()
            await one.record("w", claimed.epoch, seq=generation)
            await one.hand_over("w", claimed.epoch, generation)
            assert await one.log("w") == [(f"~{generation}", 1)]
        await one.execute("UPDATE everstep.run SET generation = 1")
        assert await one.log("w") == [("~1", 1)]
        assert await one.log("gone") is None


async def a_generation_belongs_to_no_version_and_starts_without_crashes(
    url: str, rewrite: Rewrite
) -> None:
    async with two_workers(url, rewrite) as (one, two):
        (claimed,) = await one.claim()
        await one.execute("UPDATE everstep.run SET crashes = 2, progress = 7, slot = 1")
        assert (await one.hand_over("w", claimed.epoch)).leftovers == []
        found = await one.execute(
            "SELECT ARRAY[version, slot::text, worker_id::text, crashes::text, progress::text, state::text] "
            "FROM everstep.run"
        )
        assert found == [None, None, None, "0", "0", "1"]
        (again,) = await two.claim()
        assert again.epoch == claimed.epoch + 2


async def progress_is_that_of_the_generation(url: str, rewrite: Rewrite) -> None:
    """A workflow that only crashes since it continued is no better for what it did before."""
    async with two_workers(url, rewrite) as (one, two):
        (claimed,) = await one.claim()
        for seq in range(1, 6):
            await one.record("w", claimed.epoch, seq=seq)
        await one.hand_over("w", claimed.epoch)
        crashes = []
        for _ in range(3):
            await one.execute("UPDATE everstep.worker SET state = 1 WHERE id = %s", one.me)
            await one.claim()
            await one.execute("UPDATE everstep.worker SET state = 3 WHERE id = %s", one.me)
            await two.rescue()
            crashes.append(await one.execute("SELECT ARRAY[crashes, progress] FROM everstep.run"))
        assert crashes == [[1, 1], [2, 1], [3, 1]]


async def a_checkpoint_is_never_overwritten(url: str, rewrite: Rewrite) -> None:
    """Not even by its owner: the first outcome stands."""
    async with two_workers(url, rewrite) as (one, _):
        (claimed,) = await one.claim()
        await one.record("w", claimed.epoch, output=b"1")
        await one.record("w", claimed.epoch, output=b"2")
        assert await one.execute("SELECT output FROM everstep.checkpoint") == b"1"


async def a_workflow_that_finished_is_gone_from_the_hot_table(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, two):
        (claimed,) = await one.claim()
        assert (await one.record("w", claimed.epoch, done=True)).leftovers == []
        assert await two.claim() == []
        assert await two.rescue() == 0
        assert await one.execute("SELECT count(*) FROM everstep.run") == 0


async def what_a_dead_worker_held_is_rescued_whenever_it_died(url: str, rewrite: Rewrite) -> None:
    """Level-triggered: long dead, and with its row already gone."""
    async with two_workers(url, rewrite) as (one, two):
        await queue(one, "x")
        await one.claim(1)
        await one.execute(
            "UPDATE everstep.worker SET state = 3, lease_until = now() - interval '1 hour' WHERE id = %s",
            one.me,
        )
        assert await two.rescue() == 1
        await one.execute("UPDATE everstep.worker SET state = 1 WHERE id = %s", one.me)
        assert len(await one.claim(1)) == 1
        await one.execute("DELETE FROM everstep.worker WHERE id = %s", one.me)
        assert await two.rescue() == 1


async def what_a_live_worker_holds_is_left_alone(url: str, rewrite: Rewrite) -> None:
    """Draining is alive."""
    async with two_workers(url, rewrite) as (one, two):
        await one.claim()
        assert await two.rescue() == 0
        await one.execute("UPDATE everstep.worker SET state = 2 WHERE id = %s", one.me)
        assert await two.rescue() == 0


async def only_a_crash_without_progress_counts_up(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, two):
        crashes = []
        for step in (0, 0, 1, 0):
            await one.execute("UPDATE everstep.worker SET state = 1 WHERE id = %s", one.me)
            claims = await one.claim()
            assert [claimed.id for claimed in claims] == ["w"]
            if step:
                await one.record("w", claims[0].epoch)
            await one.execute("UPDATE everstep.worker SET state = 3 WHERE id = %s", one.me)
            await two.rescue()
            crashes.append(await one.execute("SELECT crashes FROM everstep.run"))
        assert crashes == [1, 2, 1, 2]


async def a_release_is_no_crash(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        await one.claim()
        assert await one.release() == 1
        assert await one.execute("SELECT crashes FROM everstep.run") == 0


async def a_sleeper_is_not_woken_before_its_time(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        (claimed,) = await one.claim()
        assert (await one.park("w", claimed.epoch)).leftovers == []
        assert await one.wake_due() == 0
        await one.execute("UPDATE everstep.run SET wake_at = now()")
        assert await one.wake_due() == 1
        assert len(await one.claim()) == 1


async def a_pinned_workflow_is_claimed_by_its_version_only(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        await queue(one, "pinned", version="v0")
        assert [claimed.id for claimed in await one.claim()] == ["w"]


async def a_worker_that_is_leaving_claims_nothing(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        await one.execute("UPDATE everstep.worker SET state = 2 WHERE id = %s", one.me)
        assert await one.claim() == []
        assert await one.execute("SELECT state FROM everstep.run") == 1


async def a_late_checkpoint_loses_against_the_rescue(url: str, rewrite: Rewrite) -> None:
    tally = await race_late_checkpoints(url, 1_000, random.Random(1), rewrite)
    assert tally.late == []


async def no_wake_up_is_lost_between_looking_and_parking(url: str, rewrite: Rewrite) -> None:
    tally = await race_wake_ups(url, RACES["send and recv"], 200, random.Random(1), rewrite)
    assert tally.lost == 0


async def a_cancelled_workflow_does_not_park(url: str, rewrite: Rewrite) -> None:
    async with two_workers(url, rewrite) as (one, _):
        (claimed,) = await one.claim()
        await one.execute("UPDATE everstep.run SET cancel = true")
        assert (await one.park("w", claimed.epoch)).cancels == ["w"]
        assert await one.execute("SELECT state FROM everstep.run") == 2


async def one_locked_run_stands_in_nobodys_way(url: str, rewrite: Rewrite) -> None:
    """A client that is frozen in a transaction stops neither a sweep nor a claim of the others."""
    async with two_workers(url, rewrite) as (one, two), await connect(url, "frozen") as frozen:
        await queue(one, "x")
        await two.execute("SET lock_timeout = '1s'")
        for state in (1, 2):
            await one.execute(
                "UPDATE everstep.run SET state = %s, worker_id = CASE WHEN %s = 2 THEN %s::uuid END",
                *(state, state, uuid4()),
            )
            async with frozen.transaction():
                await frozen.execute("SELECT FROM everstep.run WHERE id = 'w' FOR UPDATE")
                try:
                    found = await two.rescue() if state == 2 else len(await two.claim())
                except LockNotAvailable:
                    found = 0
            assert found == 1
            assert await one.execute("SELECT state FROM everstep.run WHERE id = 'w'") == state


async def a_commit_notifies_nobody(url: str, rewrite: Rewrite) -> None:
    """Commits with a notification go one after the other through a lock of the whole server."""
    async with two_workers(url, rewrite) as (one, two):
        await two.execute("LISTEN everstep_ready")
        (claimed,) = await one.claim()
        await one.record("w", claimed.epoch, done=True)
        await one.execute("SELECT pg_notify('everstep_ready', 'the end')")
        async for notice in two.session.notifies(timeout=10):
            assert notice.payload == "the end"
            break


async def each_start_of_a_process_is_a_worker_of_its_own(url: str, _: Rewrite) -> None:
    for starts in (1, 2):
        async with Worker(App("test"), Settings(url=url, lease_ttl=5.0, grace=1.0)) as worker:
            assert await worker.client.get("nobody") is None
            with closing(Sql(url)) as sql:
                assert sql.one("SELECT count(*) FROM everstep.worker") == starts


CHECKS: list[Check] = [
    an_old_epoch_records_nothing,
    another_worker_at_the_same_epoch_records_nothing,
    an_old_epoch_finishes_nothing,
    an_old_epoch_parks_nothing,
    an_old_epoch_begins_no_generation,
    a_cancelled_workflow_begins_no_generation,
    a_generation_knows_its_own_log_only,
    a_generation_belongs_to_no_version_and_starts_without_crashes,
    progress_is_that_of_the_generation,
    a_checkpoint_is_never_overwritten,
    a_workflow_that_finished_is_gone_from_the_hot_table,
    what_a_dead_worker_held_is_rescued_whenever_it_died,
    what_a_live_worker_holds_is_left_alone,
    only_a_crash_without_progress_counts_up,
    a_release_is_no_crash,
    a_sleeper_is_not_woken_before_its_time,
    a_pinned_workflow_is_claimed_by_its_version_only,
    a_worker_that_is_leaving_claims_nothing,
    no_wake_up_is_lost_between_looking_and_parking,
    a_cancelled_workflow_does_not_park,
    one_locked_run_stands_in_nobodys_way,
    a_commit_notifies_nobody,
    each_start_of_a_process_is_a_worker_of_its_own,
]

# Mutant: the statement, what in it becomes what (a regular expression), and the check that kills it.
MUTANTS: dict[str, tuple[str, str, str, Check]] = {
    "no lock": (
        "commit",
        r"FOR NO KEY UPDATE( OF \w+)?( SKIP LOCKED)?",
        "",
        a_late_checkpoint_loses_against_the_rescue,
    ),
    "primary key only": (
        "commit",
        r"FROM fc WHERE id IS NOT NULL AND mine IS NOT NULL",
        "FROM fc WHERE id IS NOT NULL",
        an_old_epoch_records_nothing,
    ),
    "no epoch for checkpoints": (
        "commit",
        r"ON c\.id = f\.id AND c\.epoch = f\.epoch",
        "ON c.id = f.id",
        an_old_epoch_records_nothing,
    ),
    "no epoch for endings": (
        "commit",
        r"ON d\.id = f\.id AND d\.epoch = f\.epoch",
        "ON d.id = f.id",
        an_old_epoch_finishes_nothing,
    ),
    "no epoch for parks": (
        "commit",
        r"ON p\.id = f\.id AND p\.epoch = f\.epoch",
        "ON p.id = f.id",
        an_old_epoch_parks_nothing,
    ),
    "continues without the fence": (
        "commit",
        r"ON p\.id = f\.id AND p\.epoch = f\.epoch",
        "ON p.id = f.id",
        an_old_epoch_begins_no_generation,
    ),
    "continues though cancelled": (
        "commit",
        r"AND NOT fp\.cancel\b",
        "",
        a_cancelled_workflow_begins_no_generation,
    ),
    "says it continued though cancelled": (
        "commit",
        r"AND NOT \(kind = 14 AND cancel\)",
        "",
        a_cancelled_workflow_begins_no_generation,
    ),
    "loads what came before": (
        "load",
        r"AND c\.branch >= everstep\.branches_from\(r\.generation\)",
        "",
        a_generation_knows_its_own_log_only,
    ),
    "loads what comes after": (
        "load",
        r"AND c\.branch < everstep\.branches_to\(r\.generation\)",
        "",
        a_generation_knows_its_own_log_only,
    ),
    "stays with its version": (
        "commit",
        r"CASE WHEN fp\.generation > 0 THEN NULL ELSE r\.version END",
        "r.version",
        a_generation_belongs_to_no_version_and_starts_without_crashes,
    ),
    "progress of another generation": (
        "rescue",
        r"AND k\.branch >= everstep\.branches_from\(c\.generation\)",
        "",
        progress_is_that_of_the_generation,
    ),
    "epoch only": (
        "commit",
        r"AND r\.worker_id = %\(me\)s",
        "",
        another_worker_at_the_same_epoch_records_nothing,
    ),
    "checkpoints overwritten": (
        "commit",
        r"DO NOTHING RETURNING workflow_id, branch, seq",
        "DO UPDATE SET output = excluded.output RETURNING workflow_id, branch, seq",
        a_checkpoint_is_never_overwritten,
    ),
    "release keeps the epoch": (
        "release",
        r"epoch = r\.epoch \+ 1",
        "epoch = r.epoch",
        an_old_epoch_records_nothing,
    ),
    "claim keeps the epoch": (
        "claim",
        r"epoch = r\.epoch \+ 1",
        "epoch = r.epoch",
        an_old_epoch_records_nothing,
    ),
    "edge-triggered rescue": (
        "rescue",
        r"k\.id = o\.worker_id AND k\.state < 3",
        "k.id = o.worker_id AND (k.state < 3 OR k.lease_until < everstep.clock() - interval '1 minute')",
        what_a_dead_worker_held_is_rescued_whenever_it_died,
    ),
    "rescue needs the row of the dead": (
        "rescue",
        r"k\.state < 3 LIMIT 1\) IS NULL",
        "k.state = 3 LIMIT 1) IS NOT NULL",
        what_a_dead_worker_held_is_rescued_whenever_it_died,
    ),
    "draining counts as dead": (
        "rescue",
        r"k\.state < 3",
        "k.state < 2",
        what_a_live_worker_holds_is_left_alone,
    ),
    "progress forgotten": (
        "rescue",
        r"CASE WHEN s\.progress > r\.progress THEN 1 ELSE r\.crashes \+ 1 END",
        "r.crashes + 1",
        only_a_crash_without_progress_counts_up,
    ),
    "release counts as a crash": (
        "release",
        r"ready_at = everstep\.clock\(\)",
        "ready_at = everstep.clock(), crashes = r.crashes + 1",
        a_release_is_no_crash,
    ),
    "a park that forgets what it saw": (
        "commit",
        r"AND \(fp\.signals < 0 OR fp\.signals = fp\.now_signals\)",
        "",
        no_wake_up_is_lost_between_looking_and_parking,
    ),
    "a waker that looks at the state": (
        "wake",
        r"WHERE r\.id = ANY \(%\(ids\)s::text\[\]\)",
        "WHERE r.id = ANY (%(ids)s::text[]) AND r.state = 3",
        no_wake_up_is_lost_between_looking_and_parking,
    ),
    "a park that forgets the cancellation": (
        "commit",
        r"AND NOT fp\.cancel",
        "",
        a_cancelled_workflow_does_not_park,
    ),
    "a sweep that waits for locks": (
        "rescue",
        r"SKIP LOCKED",
        "",
        one_locked_run_stands_in_nobodys_way,
    ),
    "a claim that waits for locks": (
        "claim",
        r"SKIP LOCKED",
        "",
        one_locked_run_stands_in_nobodys_way,
    ),
    "a notification in the commit": (
        "commit",
        r"SELECT everstep\.clock\(\) AS at",
        "SELECT CASE WHEN pg_notify('everstep_ready', '')::text = '' THEN everstep.clock() END AS at",
        a_commit_notifies_nobody,
    ),
    "timers by a worker's clock": (
        "wake_due",
        r"r\.wake_at <= everstep\.clock\(\)",
        f"r.wake_at <= to_timestamp({time.time() + 7_200})",  # two hours ahead
        a_sleeper_is_not_woken_before_its_time,
    ),
    "timers always due": (
        "wake_due",
        r"AND r\.wake_at <= everstep\.clock\(\)",
        "",
        a_sleeper_is_not_woken_before_its_time,
    ),
    "claims of any version": (
        "claim",
        r"AND \(r\.version = %\(version\)s OR .*?END\)",
        "",
        a_pinned_workflow_is_claimed_by_its_version_only,
    ),
    "claims while leaving": (
        "claim",
        r"AND k\.state = 1",
        "",
        a_worker_that_is_leaving_claims_nothing,
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_protocol_keeps_its_rule(postgres: Server, check: Check):
    with fresh_database(postgres) as name:
        await check(postgres.url(name), lambda sql: sql)


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_is_killed_by_its_check(postgres: Server, mutant: str):
    statement, pattern, replacement, check = MUTANTS[mutant]

    def rewrite(sql: dict[str, bytes]) -> dict[str, bytes]:
        text, times = re.subn(pattern, replacement, sql[statement].decode(), flags=re.DOTALL)
        assert times >= 1, f"the statement {statement} no longer has what this mutant changes"
        return {**sql, statement: text.encode()}

    with fresh_database(postgres) as name, pytest.raises(AssertionError) as killed:
        await check(postgres.url(name), rewrite)
    assert "no longer has" not in str(killed.value)


async def test_a_process_that_keeps_its_uuid_is_seen(postgres: Server, monkeypatch):
    """The mutant that no statement can show: an engine whose identity outlives its process."""
    monkeypatch.setattr("everstep.engine.parts.uuid4", lambda: UUID(int=7))
    with fresh_database(postgres) as name, pytest.raises(AssertionError):
        await each_start_of_a_process_is_a_worker_of_its_own(postgres.url(name), dict)
