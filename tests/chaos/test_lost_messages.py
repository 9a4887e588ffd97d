"""Each message between a worker and its database lost once, on the way there or on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.crash_app import BOOKINGS, app_of, expected
from support.crash_checks import Log, check_effects, log_of
from support.database import Sql, fresh_database
from support.ledger import Ledger
from support.proxy import Loss, proxy_to
from support.server import Server

from everstep import Settings, Worker
from everstep.store.fsck import fsck

AT_ONCE = 10
MOST = {"everstep worker": 18, "everstep metrics": 2, "everstep heartbeat": 2}
"""Loops ask again and again: so many requests of theirs are lost, each in a run of its own."""


@dataclass(frozen=True)
class Run:
    """What came of one run: how many requests there were, and how many steps were executed twice."""

    requests: dict[str, int]
    log: Log
    lost: int
    again: int


@pytest.mark.slow
async def test_any_message_may_be_lost_once(postgres, tmp_path):
    undisturbed = await run(postgres, tmp_path / "first", None)
    losses = list(losses_of(undisturbed.requests))
    runs = await all_of(postgres, tmp_path, losses)
    replies = sum(run.lost for run, loss in zip(runs, losses, strict=True) if loss.executed)
    requests = sum(run.lost for run in runs) - replies
    print(f"{replies} replies and {requests} requests lost, each in a run of its own")
    assert replies >= 60
    assert requests >= 60
    assert [
        loss for run, loss in zip(runs, losses, strict=True) if run.log != undisturbed.log
    ] == []
    # The worker lived all the time: no step runs again for a lost message.
    assert sum(run.again for run in runs) == 0


def losses_of(requests: dict[str, int]) -> Iterator[Loss]:
    for application, count in sorted(requests.items()):
        for number in range(1, min(count, MOST.get(application, count)) + 1):
            yield Loss(application, number, executed=True)
            yield Loss(application, number, executed=False)


async def all_of(postgres: Server, folder: Path, losses: Sequence[Loss]) -> list[Run]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, loss: Loss) -> Run:
        async with gate:
            return await run(postgres, folder / f"{number}", loss)

    return await asyncio.gather(*[one(number, loss) for number, loss in enumerate(losses)])


async def run(postgres: Server, ledger: Path, loss: Loss | None) -> Run:
    """The reference workflow in a database of its own, through a proxy that loses one message."""
    with fresh_database(postgres) as name, proxy_to(postgres.port) as proxy:
        sql, book = Sql(postgres.url(name)), Ledger(ledger)
        sql(BOOKINGS)
        app = app_of([0], book)
        settings = Settings(url=postgres.tcp_url(name, proxy.port), lease_ttl=15.0, grace=5.0)
        async with Worker(app, settings) as worker:
            # From here on: a database that is not there when a program begins is an error, said at once.
            proxy.requests.clear()
            proxy.loss = loss
            handle = await worker.client.start(app.workflows["reference-0"], id="crash-0")
            assert await handle.result(timeout=60) == expected(0), loss
        check_effects(sql, 1)
        assert fsck(settings.url.replace(str(proxy.port), str(postgres.port))) == []
        executions = book.executions()
        again = executions.total() - len(executions)
        found = Run(dict(proxy.requests), log_of(sql, 0), len(proxy.lost), again)
        sql.close()
        book.close()
    return found
