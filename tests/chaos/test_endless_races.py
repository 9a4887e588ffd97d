"""A generation ends while somebody else cancels or rescues the workflow, its reply is lost, or its worker dies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.database import Sql
from support.fleet import Fleet, kill_now_and_then
from support.ledger import Ledger
from support.protocol import Speaker, handing_over, queue, two_workers
from support.proxy import proxy_to
from support.server import Server
from support.waiting import eventually

import everstep
from everstep import App, Client, Settings, Worker
from everstep.store.workflows import Workflows

TRIALS = 100
MAX_OFFSET_SECONDS = 0.003


async def after(seconds: float) -> None:
    await asyncio.sleep(max(0.0, seconds))


async def hand_over(zombie: Speaker, ids: list[str], lead: float) -> set[str]:
    """A late commit that leaves workflows to their next generation. Returns those it took."""
    await after(lead)
    reply = await zombie.runs.commit(zombie.session, handing_over(ids, 1, 1))
    return set(ids) - set(reply.leftovers) - set(reply.cancels)


async def test_a_late_hand_over_and_a_rescue_never_both_count(database: str, rng: random.Random):
    """Whoever owns it next replays the old generation whole, or the new one from its beginning; nothing between."""
    tally: Counter[str] = Counter()
    async with two_workers(database, lambda sql: sql) as (zombie, heir):
        await heir.execute("DELETE FROM everstep.run")
        await heir.execute("DELETE FROM everstep.workflow")
        await heir.execute("UPDATE everstep.worker SET state = 3 WHERE id = %s", zombie.me)
        for trial in range(TRIALS):
            ids = [f"{trial}-a", f"{trial}-b"]
            await owned(zombie, ids)
            lead = rng.uniform(-MAX_OFFSET_SECONDS, MAX_OFFSET_SECONDS)
            took, _ = await asyncio.gather(
                hand_over(zombie, ids, lead), rescue(heir, ids, after_=-lead)
            )
            for id_ in ids:
                there = await heir.log(id_)
                assert there == ([("~1", 1)] if id_ in took else [("", 1)])
                assert await generation(heir, id_) == (1 if id_ in took else 0)
            tally["taken"] += len(took)
            tally["refused"] += len(ids) - len(took)
    print(tally)
    assert min(tally["taken"], tally["refused"]) > TRIALS / 15


async def test_a_hand_over_and_a_cancellation_never_both_count(database: str, rng: random.Random):
    tally: Counter[str] = Counter()
    async with two_workers(database, lambda sql: sql) as (owner, other):
        workflows = Workflows("everstep")
        for trial in range(TRIALS):
            ids = [f"{trial}-a", f"{trial}-b"]
            await owned(owner, ids)
            lead = rng.uniform(-MAX_OFFSET_SECONDS, MAX_OFFSET_SECONDS)

            async def cancel(ids: list[str] = ids, lead: float = lead) -> set[str]:
                await after(-lead)
                done = await workflows.cancel(other.session, ids, b'{"type":"x","message":"y"}')
                return set(done.cancelled)

            took, finished = await asyncio.gather(hand_over(owner, ids, lead), cancel())
            # Handed over first: nobody runs it, and the cancellation ends it. Cancelled first: its owner is told.
            assert took == finished
            for id_ in ids:
                assert (await other.log(id_)) == (None if id_ in took else [("", 1)])
            tally["taken"] += len(took)
            tally["refused"] += len(ids) - len(took)
            for id_ in set(ids) - took:
                assert (await owner.finish(id_, 1)).leftovers == []
    print(tally)
    assert min(tally["taken"], tally["refused"]) > TRIALS / 15


async def owned(speaker: Speaker, ids: list[str]) -> None:
    """Workflows that this worker runs at epoch 1, each with a recorded step."""
    for id_ in ids:
        await queue(speaker, id_, version="v1")
        await speaker.execute(
            "UPDATE everstep.run SET state = 2, epoch = 1, worker_id = %s WHERE id = %s",
            speaker.me,
            id_,
        )
        assert (await speaker.record(id_, 1)).leftovers == []


async def rescue(heir: Speaker, ids: list[str], *, after_: float) -> None:
    """Sweep until nothing of it belongs to the dead."""
    await after(after_)
    while await heir.execute(
        "SELECT count(*) FROM everstep.run WHERE id = ANY (%s) AND state = 2", ids
    ):
        await heir.rescue()


async def generation(speaker: Speaker, id_: str) -> object:
    return await speaker.execute("SELECT generation FROM everstep.run WHERE id = %s", id_)


async def test_the_reply_to_a_hand_over_may_be_lost(postgres: Server, database: str, sql: Sql):
    ran: list[int] = []
    app = App("test")

    @app.step
    async def note(n: int) -> None:
        ran.append(n)

    @app.workflow(name="flow")
    async def flow(n: int) -> int:
        await note(n)
        if n < 6:
            everstep.continue_as_new(n + 1)
        return n

    with proxy_to(postgres.port) as proxy:
        url = postgres.tcp_url(urlsplit(database).path.strip("/"), proxy.port)
        settings = Settings(url=url, lease_ttl=5, grace=2.0)
        async with Worker(app, settings), Client.connect(database) as client:
            proxy.lose = lambda request: b'{"n":4}' in request
            handle = await client.start(flow, 0)
            assert await handle.result(timeout=30) == 6
        assert len(proxy.lost) == 1
    assert ran == list(range(7))
    assert sql.one("SELECT count(*) FROM everstep.checkpoint") == 7 + 6
    assert sql.one("SELECT finished_epoch FROM everstep.workflow") == 1 + 2 * 6


@pytest.mark.slow
async def test_workers_killed_at_every_moment_lose_no_generation(
    database: str, sql: Sql, rng: random.Random, tmp_path: Path
):
    """Each generation hands what it did to the next one: nothing is left out, nothing is done twice."""
    workflows, generations = 40, 30
    environment = {
        "LEDGER": str(tmp_path / "ledger"),
        "SLOWEST_STEP_SECONDS": "0.3",
        "EVERSTEP_MAX_CRASHES": "100",
        "EVERSTEP_LEASE_SECONDS": "1.5",
    }
    with Fleet(database, tmp_path, environment=environment) as fleet:
        fleet.start(3)
        # Nobody is killed before all of them work, and the first one might have done everything by then.
        await eventually(fleet.whole, within=120)
        async with Client.connect(database) as client:
            for n in range(workflows):
                given = {"left": generations, "tokens": []}
                await client.start_named("endless", given, id=f"w{n}")
        monkey = asyncio.ensure_future(kill_now_and_then(fleet, rng, 1.0))
        try:
            await eventually(
                lambda: sql.one("SELECT count(*) FROM everstep.run") == 0, within=300, pause=0.2
            )
        finally:
            monkey.cancel()
        print(f"{fleet.kills} kills")
        assert fleet.kills
    happened = {(entry.key, entry.token) for entry in Ledger(tmp_path / "ledger").entries()}
    for n in range(workflows):
        tokens = sql.one(
            "SELECT convert_from(output, 'UTF8')::jsonb FROM everstep.workflow WHERE id = %s AND status = 1",
            [f"w{n}"],
        )
        assert len(tokens) == generations
        keys = [f"w{n}:1", *[f"w{n}:~{g}:2" for g in range(1, generations)]]
        assert all(pair in happened for pair in zip(keys, tokens, strict=True))
