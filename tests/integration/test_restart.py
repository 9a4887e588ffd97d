"""What `on_existing="restart"` gives a workflow that failed: another go, on the terms of the call that asks for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import StartWorker
from support.database import Sql

import everstep
from everstep import App, Client, DuplicateWorkflowError, WorkflowCancelledError
from everstep.errors import WorkflowTimeoutError

HOUR = timedelta(hours=1)


@pytest.fixture
async def ended(app: App, worker: StartWorker, client: Client) -> Any:
    """A workflow function, one of whose workflows, "w", was cancelled."""

    @app.workflow
    async def listen() -> str:
        return str(await everstep.recv("end"))

    await worker()
    handle = await client.start(listen, id="w", timeout=HOUR)
    await handle.cancel()
    with pytest.raises(WorkflowCancelledError):
        await handle.result(30)
    return listen


async def test_a_restart_has_the_time_limit_of_its_own_call(
    ended: Any, client: Client, sql: Sql
) -> None:
    again = await client.start(ended, id="w", on_existing="restart", timeout=0.5)
    with pytest.raises(WorkflowTimeoutError):
        await again.result(30)
    again = await client.start(
        ended,
        id="w",
        on_existing="restart",
        deadline=datetime(2100, 1, 1, tzinfo=UTC),
        timeout=HOUR,
    )
    limit = sql.one("SELECT deadline - clock_timestamp() FROM everstep.run WHERE id = 'w'")
    assert timedelta(minutes=58) < limit <= HOUR
    await client.send("w", "fine", "end")
    assert await again.result(30) == "fine"


@pytest.mark.parametrize("how", ["delay", "run_at"])
async def test_a_restart_may_be_later_and_pinned(
    ended: Any, client: Client, sql: Sql, how: str
) -> None:
    later: Any = HOUR if how == "delay" else datetime.now(UTC) + HOUR
    options: Any = {how: later, "version": "v7", "priority": 3}
    again = await client.start(ended, id="w", on_existing="restart", **options)
    info = await again.info()
    assert (info.status, info.version, info.priority) == ("waiting", "v7", 3)
    wait = sql.one("SELECT wake_at - clock_timestamp() FROM everstep.run WHERE id = 'w'")
    assert timedelta(minutes=58) < wait <= HOUR


async def test_a_restart_holds_its_key_and_meets_who_holds_it(ended: Any, client: Client) -> None:
    await client.start(ended, id="w", on_existing="restart", dedup="k")
    with pytest.raises(DuplicateWorkflowError) as refused:
        await client.start(ended, id="other", dedup="k")
    assert refused.value.holder == "w"
    await client.cancel("w")
    with pytest.raises(WorkflowCancelledError):
        await client.handle(ended, "w").result(30)
    await client.start(ended, id="other", dedup="k")
    with pytest.raises(DuplicateWorkflowError) as refused:
        await client.start(ended, id="w", on_existing="restart", dedup="k")
    assert refused.value.holder == "other"
    same = await client.start(
        ended, id="w", on_existing="restart", dedup="k", on_duplicate="return"
    )
    assert same.id == "other"
