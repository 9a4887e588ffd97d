"""Debounce: of starts that come close together one runs, with the last input; under every race."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from conftest import StartWorker
from msgspec import structs
from support.database import Sql
from support.protocol import Speaker, two_workers
from support.proxy import proxy_to
from support.schedules import HandClock, utc
from support.server import Server
from support.waiting import BLOCKED_BY, eventually

from everstep import App, Client, Debounce, UsageError, WorkflowError, sync
from everstep.client.startable import make_start
from everstep.store.connection import connect
from everstep.store.workflows import Workflows


@pytest.fixture
def indexing(app: App) -> App:
    @app.workflow(name="reindex")
    async def reindex(shop: int, revision: int) -> list[int]:
        return [shop, revision]

    @app.workflow(name="other")
    async def other(shop: int, revision: int) -> list[int]:
        return [-shop, revision]

    return app


async def test_the_last_input_within_the_window_is_the_one_that_runs(
    indexing: App, client: Client, worker: StartWorker, sql: Sql
) -> None:
    reindex = indexing.workflows["reindex"]
    quiet = Debounce("shop-7", window=timedelta(seconds=60))
    handles = [await client.start(reindex, 7, n, debounce=quiet) for n in range(5)]
    assert len({handle.id for handle in handles}) == 1
    assert [handle.created for handle in handles] == [True, False, False, False, False]
    assert sql.one("SELECT sum(n) FROM everstep.metric_delta WHERE kind = 1") == 1
    assert sql("SELECT delayed FROM everstep.v1_queues") == [(1,)]
    sql.advance_clock(61)
    await worker()
    assert await handles[0].result(timeout=30) == [7, 4]
    # It has begun: the next start is another workflow.
    later = await client.start(reindex, 7, 9, debounce=quiet)
    assert later.id != handles[0].id
    assert later.created


async def test_each_start_moves_the_time_and_the_maximum_does_not_move(
    indexing: App, client: Client, sql: Sql
) -> None:
    reindex, clock = indexing.workflows["reindex"], HandClock(sql, utc("2026-05-01"))

    async def wakes_in(window: float, max_wait: float | None) -> float:
        await client.start(reindex, 1, 1, debounce=Debounce("k", window, max_wait))
        return float(
            sql.one("SELECT extract(epoch FROM wake_at - everstep.clock()) FROM everstep.run")
        )

    assert await wakes_in(60, 100) == 60
    clock.move(seconds=30)
    assert await wakes_in(60, 100) == 60
    clock.move(seconds=30)
    assert await wakes_in(60, 100) == 40
    assert await wakes_in(5, 100) == 5
    assert await wakes_in(60, None) == 60
    clock.move(seconds=70)  # too late already, but nobody has woken it yet: this input is the one
    assert await wakes_in(60, 100) == -30


async def test_keys_are_those_of_a_workflow_function(
    indexing: App, client: Client, sql: Sql
) -> None:
    quiet = Debounce("same", window=60)
    for name in ("reindex", "other", "reindex"):
        await client.start(indexing.workflows[name], 1, 1, debounce=quiet)
    await client.start(indexing.workflows["reindex"], 1, 1, debounce=Debounce("else", window=60))
    assert sql("SELECT name, debounce FROM everstep.run ORDER BY 1, 2") == [
        ("other", "same"),
        ("reindex", "else"),
        ("reindex", "same"),
    ]


async def test_the_first_start_decides_everything_but_input_and_time(
    indexing: App, client: Client, sql: Sql
) -> None:
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)
    first = await client.start(
        reindex,
        1,
        1,
        debounce=quiet,
        queue="slow",
        priority=3,
        attributes={"by": "ada"},
        timeout=99,
    )
    before = sql("SELECT queue, priority, deadline, partition, version FROM everstep.run")
    again = await client.start(
        reindex, 1, 2, debounce=quiet, queue="quick", priority=0, attributes={"by": "ben"}
    )
    assert again.id == first.id
    assert sql("SELECT queue, priority, deadline, partition, version FROM everstep.run") == before
    info = await client.get(first.id)
    assert info is not None
    assert (info.attributes, info.input) == ({"by": "ada"}, {"shop": 1, "revision": 2})


async def test_a_start_that_was_cancelled_is_not_added_to(
    indexing: App, client: Client, worker: StartWorker, sql: Sql
) -> None:
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)
    first = await client.start(reindex, 1, 1, debounce=quiet)
    assert await first.cancel()
    second = await client.start(reindex, 1, 2, debounce=quiet)
    assert second.id != first.id
    sql.advance_clock(61)
    await worker()
    assert await second.result(timeout=30) == [1, 2]


async def test_in_a_transaction_of_the_caller_it_counts_if_that_commits(
    indexing: App, client: Client, database: str, sql: Sql
) -> None:
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)
    await client.start(reindex, 1, 1, debounce=quiet)
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await client.start(reindex, 1, 2, debounce=quiet, connection=connection)
        await connection.rollback()
        assert json.loads(sql.one("SELECT input FROM everstep.workflow"))["revision"] == 1
        await client.start(reindex, 1, 3, debounce=quiet, connection=connection)
        await connection.commit()
    assert json.loads(sql.one("SELECT input FROM everstep.workflow"))["revision"] == 3
    with psycopg.connect(database) as plain:
        other = Debounce("other", window=60)
        handle = await client.start(reindex, 2, 4, debounce=other, connection=plain)
        assert sql.one("SELECT count(*) FROM everstep.run") == 1
    assert await client.get(handle.id) is not None


def test_the_sql_function_is_the_same_start(sql: Sql) -> None:
    def start(revision: int, arguments: str = "") -> str:
        return str(
            sql.one(
                "SELECT everstep.debounce('reindex', jsonb_build_object('shop', 1, 'revision', %s::int), key => 'k', "
                f"time_window => interval '1 minute', max_wait => interval '1 hour'{arguments})",
                [revision],
            )
        )

    assert start(1, ", queue => 'slow', timeout => interval '2 hours'") == start(2)
    (row,) = sql("SELECT input, queue, status, deadline FROM everstep.workflows")
    assert tuple(row[:3]) == ({"shop": 1, "revision": 2}, "slow", "waiting")
    assert row.deadline is not None
    for wrong in (
        "'[]', 'k', interval '1 s'",
        "'{}', NULL, interval '1 s'",
        "'{}', 'k', interval '0'",
        "'{}', 'k', interval '2 s', interval '1 s'",
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            sql(f"SELECT everstep.debounce('reindex', {wrong})")


async def test_plain_programs_debounce_as_well(
    indexing: App, database: str, worker: StartWorker, sql: Sql
) -> None:
    def program() -> str:
        with sync.Client.connect(database) as client:
            quiet = Debounce("k", window=60)
            one = client.start(indexing.workflows["reindex"], 1, 1, debounce=quiet)
            two = client.start_named("reindex", {"shop": 1, "revision": 2}, debounce=quiet)
            assert one.id == two.id
            return two.id

    id_ = await asyncio.to_thread(program)
    sql.advance_clock(61)
    running = await worker()
    assert await running.client.handle_named(id_).result(timeout=30) == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "x"}, "id cannot be given with it"),
        ({"delay": 3, "dedup": "k"}, "dedup, delay cannot be given"),
        ({"on_existing": "restart"}, "on_existing cannot"),
        ({"debounce": "k"}, "takes everstep.Debounce"),
    ],
)
async def test_what_contradicts_it_is_refused(
    indexing: App, client: Client, options: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"debounce": Debounce("k", window=1), **options}
    with pytest.raises(UsageError, match=words):
        await client.start(indexing.workflows["reindex"], 1, 1, **given)


@pytest.mark.parametrize(
    "arguments",
    [("", 1.0), ("a\0", 1.0), ("x" * 513, 1.0), ("\udc00", 1.0), ("k", 0), ("k", -1), ("k", 5, 4)],
)
def test_a_wrong_debounce_is_refused_where_it_is_made(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError):
        Debounce(*arguments)


async def test_a_workflow_debounces_in_a_step(
    indexing: App, client: Client, worker: StartWorker, sql: Sql
) -> None:
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)

    @indexing.step
    async def soon() -> str:
        return (await client.start(reindex, 1, 1, debounce=quiet)).id

    @indexing.workflow
    async def careful() -> str:
        return await soon()

    @indexing.workflow
    async def wrong() -> None:
        await client.start(reindex, 1, 1, debounce=quiet)

    await worker()
    id_ = await (await client.start(careful)).result(timeout=30)
    assert sql.one("SELECT id FROM everstep.run") == id_
    with pytest.raises(WorkflowError, match=r"call client\.start\(…, debounce=…\) in a step"):
        await (await client.start(wrong)).result(timeout=30)


@pytest.mark.parametrize("meanwhile", ["it has begun", "it has another input"])
async def test_a_start_that_is_repeated_after_a_lost_reply_is_one_start(
    indexing: App,
    client: Client,
    worker: StartWorker,
    database: str,
    postgres: Server,
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: str,
) -> None:
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)
    first = await client.start(reindex, 1, 1, debounce=quiet)
    real, tries = Workflows.start_debounced, []

    async def start_debounced(self: Workflows, connection: Any, start: Any) -> tuple[str, bool]:
        tries.append(start.id)
        if len(tries) == 2:
            # Between the try whose reply was lost and its repetition.
            if meanwhile == "it has another input":
                await real(self, connection, structs.replace(start, id="another", input=THIRD))
            sql.advance_clock(61)
            await worker()
            await first.result(timeout=30)
        return await real(self, connection, start)

    with proxy_to(postgres.port) as proxy:
        there = postgres.tcp_url(urlsplit(database).path.strip("/"), proxy.port)
        async with Client.connect(there) as unlucky:
            monkeypatch.setattr(Workflows, "start_debounced", start_debounced)
            proxy.lose_reply_to(b'"revision":2')
            second = await unlucky.start(reindex, 1, 2, debounce=quiet)
        assert len(proxy.lost) == 1
    assert tries == [tries[0]] * 2
    assert (second.id, second.created) == (first.id, False)
    assert await first.result(timeout=30) == [1, 2 if meanwhile == "it has begun" else 3]
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


async def test_what_is_known_of_repeats_is_forgotten_after_an_hour(
    indexing: App, client: Client, sql: Sql
) -> None:
    reindex = indexing.workflows["reindex"]
    for _ in range(2):
        for n in range(5):
            await client.start(reindex, 1, n, debounce=Debounce("k", window=86_400))
        sql.advance_clock(3_601)
    assert sql.one("SELECT count(*) FROM everstep.debounced") == 5
    assert sql.one("SELECT count(*) FROM everstep.workflow") == 1


THIRD = b'{"shop":1,"revision":3}'


async def test_a_start_that_came_too_late_does_not_hold_what_has_begun(
    indexing: App, client: Client, database: str, sql: Sql
) -> None:
    """Its transaction may take long, and the workflow that was woken under its hands is somebody else's by then."""
    reindex, quiet = indexing.workflows["reindex"], Debounce("k", window=60)
    first = await client.start(reindex, 1, 1, debounce=quiet)
    with psycopg.connect(database) as waker, psycopg.connect(database) as caller:
        waker.execute("UPDATE everstep.run SET state = 1, wake_at = NULL")
        late = asyncio.ensure_future(
            asyncio.to_thread(
                caller.execute,
                "SELECT everstep.debounce('reindex', '{\"shop\": 1, \"revision\": 2}', 'k', interval '60 s')",
            )
        )
        await eventually(lambda: sql.one(BLOCKED_BY, [waker.info.backend_pid]))
        waker.commit()
        (second,) = (await late).fetchone() or ("",)
        assert second != first.id
        # The caller has not committed yet, and whoever runs the first one has a free hand.
        assert sql("SELECT id FROM everstep.run FOR UPDATE NOWAIT") == [(first.id,)]
    info = await client.get(second)
    assert info is not None
    assert info.input == {"shop": 1, "revision": 2}


# -- the race ------------------------------------------------------------------------------------

KEYS = ("a", "b")
CALLERS = 6
CALLS = 50


@dataclass(frozen=True)
class Call:
    """One start: its input, the workflow it was told, and when it began and was acknowledged."""

    value: int
    id: str
    began: int
    acknowledged: int


async def test_no_input_is_lost_between_a_start_and_a_wake(
    database: str, rng: random.Random
) -> None:
    calls, ran = await race(database, rng)
    assert {call.id for call in calls} == ran.keys()
    assert lost(calls, ran) == []
    print(f"{len(calls)} starts, {len(ran)} workflows")
    assert len(KEYS) * 3 < len(ran) < len(calls) * 0.9


@pytest.mark.slow
@pytest.mark.no_fsck
async def test_without_the_lock_the_race_loses_inputs(
    database: str, rng: random.Random, sql: Sql
) -> None:
    """With a pause between looking and writing, so that there is much to hit."""

    def change(old: str, new: str) -> None:
        function = sql.one("SELECT pg_get_functiondef('everstep.start_debounced'::regproc)")
        assert function.count(old) == 1
        sql(function.replace(old, new))

    change("FOR UPDATE;", "FOR UPDATE; PERFORM pg_sleep(0.008);")
    assert lost(*await race(database, rng)) == []
    change("FOR UPDATE;", ";")
    # A deadlock shows it as well: the lock is also what puts callers in an order.
    with contextlib.suppress(psycopg.errors.DeadlockDetected):
        assert lost(*await race(database, rng))


async def race(url: str, rng: random.Random) -> tuple[list[Call], dict[str, int]]:
    """Callers on sessions of their own, against two workers that wake and claim all the time."""
    moments, values = itertools.count(), itertools.count()
    calls: list[Call] = []
    ran: dict[str, int] = {}

    async def caller(seed: int) -> None:
        dice, workflows = random.Random(seed), Workflows("everstep")
        async with await connect(url, "caller") as session:
            for _ in range(CALLS):
                value, began = next(values), next(moments)
                quiet = Debounce(dice.choice(KEYS), dice.choice((0.001, 0.005)), 0.02)
                body = b'{"n":%d}' % value
                start = make_start("w", body, "default", {"debounce": quiet})
                id_, _ = await workflows.start_debounced(session, start)
                calls.append(Call(value, id_, began, next(moments)))
                await asyncio.sleep(dice.choice((0, 0, 0.002, 0.008)))

    async def works(speaker: Speaker) -> None:
        while not over.is_set() or await speaker.execute("SELECT count(*) FROM everstep.run"):
            await speaker.wake_due()
            for claimed in await speaker.claim():
                assert claimed.id not in ran
                ran[claimed.id] = json.loads(claimed.input).get("n", -1)
                while (await speaker.finish(claimed.id, claimed.epoch)).leftovers:
                    pass  # a start that came too late holds it for a moment

    over = asyncio.Event()
    async with two_workers(url, lambda sql: sql) as speakers:
        await speakers[0].execute("DELETE FROM everstep.run")
        await speakers[0].execute("DELETE FROM everstep.workflow WHERE status = 0")
        workers = [asyncio.ensure_future(works(speaker)) for speaker in speakers]
        await asyncio.gather(*[caller(rng.randrange(2**32)) for _ in range(CALLERS)])
        over.set()
        await asyncio.wait_for(asyncio.gather(*workers), 30)
    return calls, ran


def lost(calls: list[Call], ran: dict[str, int]) -> list[Call]:
    """Inputs that came after the one that ran, were acknowledged for the same workflow, and did not run."""
    by_value = {call.value: call for call in calls}
    return [
        call
        for call in calls
        if call.id not in ran
        or by_value[ran[call.id]].id != call.id
        or call.began > by_value[ran[call.id]].acknowledged
    ]
