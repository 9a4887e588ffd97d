"""Random programs, many at once, while their workers come and go and the event loop stalls: all end, and no replay differs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.database import Sql
from support.program_app import app, name_of, program
from support.programs import Maker
from support.waiting import eventually

from everstep import Client, Settings, Worker
from everstep.store.fsck import fsck
from everstep.testing.probe import Plan

PROGRAMS = int(os.environ.get("PROGRAMS", "60"))
MESSAGES_SECONDS = 2.0
OPEN = "SELECT id FROM everstep.run WHERE id NOT LIKE '%/%' ORDER BY id"

Program = dict[str, Any]


@pytest.mark.slow
@pytest.mark.no_fsck  # but for what it says of programs that leave tasks behind
# A replay that is told in the middle of `gather(a(), b())` that it was cancelled makes no task of what is left.
@pytest.mark.filterwarnings("ignore:coroutine 'Interpreter.run' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("replay", [False, True], ids=["as they come", "replayed at each step"])
async def test_random_programs_end_and_no_replay_differs(database, sql, rng, seed, replay):
    count = PROGRAMS // 2 if replay else PROGRAMS
    makers = [Maker(random.Random(f"{seed} {n}"), n, count) for n in range(count)]
    programs = [maker.program() for maker in makers]
    began = time.monotonic()
    try:
        await run_all(database, sql, rng, programs, replay=replay)
    except AssertionError:
        tell(sql, programs, "SELECT id, 'has not ended' AS error FROM everstep.run")
        raise
    failed = tell(
        sql, programs, "SELECT id, convert_from(error, 'UTF8') AS error FROM everstep.workflow"
    )
    assert failed == []
    assert [broken for broken in fsck(database) if broken.invariant != "I13"] == []
    nodes = sum(maker.nodes for maker in makers)
    claims = sql.one("SELECT sum(finished_epoch) FROM everstep.workflow")
    print(
        f"{count} programs of {nodes} statements in {time.monotonic() - began:.0f} s, {claims} times claimed or given back"
    )


async def run_all(
    url: str, sql: Sql, rng: random.Random, programs: list[Program], *, replay: bool
) -> None:
    """Start them and send what they wait for, while workers come and go, until all have ended."""
    probe = Plan(replay=True).probe if replay else None
    async with Client.connect(url) as client:
        # Before there is a worker: programs send to each other, so all have to be there.
        await asyncio.gather(*[client.start(program, p, id=name_of(p["number"])) for p in programs])
        trouble = [
            asyncio.create_task(come_and_go(url, rng, probe)),
            asyncio.create_task(stall(rng)),
        ]
        try:
            await send_all(client, rng, programs)
            await eventually(lambda: not sql(OPEN), within=60, pause=0.1, what="all programs")
        finally:
            for task in trouble:
                task.cancel()
            ends = await asyncio.gather(*trouble, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def send_all(client: Client, rng: random.Random, programs: list[Program]) -> None:
    """As many messages of each topic as a program may take, at random times."""

    async def send(number: int, topic: str, n: int) -> None:
        await asyncio.sleep(rng.uniform(0, MESSAGES_SECONDS))
        await client.send(name_of(number), n, topic)

    mails = [(p["number"], *item) for p in programs for item in p["messages"].items()]
    await asyncio.gather(
        *[send(number, topic, n) for number, topic, count in mails for n in range(count)]
    )


async def come_and_go(url: str, rng: random.Random, probe: Any) -> None:
    """Two workers; now and then one of them leaves in the middle of everything, and another comes."""
    settings = Settings(url=url, lease_ttl=5.0, grace=0.0)
    async with AsyncExitStack() as stack:

        async def comes() -> Worker:
            return await stack.enter_async_context(Worker(app, settings, probe=probe))

        workers = [await comes(), await comes()]
        while True:
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await workers.pop(0).stop()
            workers.append(await comes())


async def stall(rng: random.Random) -> None:
    """In a slow event loop, timers coincide."""
    while True:
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        time.sleep(rng.choice((0.05, 0.1, 0.2, 0.3)))  # noqa: ASYNC251


def tell(sql: Sql, programs: list[Program], of: str) -> list[tuple[str, str]]:
    """Which programs are among these rows with an error; of each, what it is and what was recorded."""
    rows = sql(f"SELECT * FROM ({of}) t WHERE error IS NOT NULL AND id NOT LIKE '%/%' ORDER BY id")
    log = (
        "SELECT branch, seq, kind, name, epoch, recorded_at::time, convert_from(output, 'UTF8'), "
        "left(convert_from(error, 'UTF8'), 90) FROM everstep.checkpoint WHERE workflow_id = %s "
        'ORDER BY branch COLLATE "C", seq'
    )
    for row in rows:
        print(row.id, row.error, json.dumps(programs[int(row.id[1:])]), sep="\n")
        print(*sql("SELECT * FROM everstep.run WHERE id = %s", [row.id]))
        print(*[tuple(map(str, entry)) for entry in sql(log, [row.id])], sep="\n")
    return [(row.id, row.error[:200]) for row in rows]
