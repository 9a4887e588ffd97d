"""Mistakes in a workflow that used to be told in the words of Python's own errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from everstep import App, Client, WorkflowError, sync


async def test_a_child_s_deadline_without_a_time_zone(app: App, client: Client, worker) -> None:
    @app.workflow
    async def child() -> None:
        return None

    @app.workflow
    async def parent() -> None:
        await client.start(child, deadline=datetime(2040, 1, 1))  # noqa: DTZ001

    await worker()
    handle = await client.start(parent, deadline=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(WorkflowError, match="has no time zone"):
        await handle.result(30)


async def test_a_plain_workflow_waits_for_what_is_no_handle(
    app: App, client: Client, worker
) -> None:
    @app.workflow
    def flow() -> None:
        sync.wait_first(["an-id"])  # type: ignore[list-item]

    await worker()
    with pytest.raises(WorkflowError, match="takes handles of workflows, not 'an-id'"):
        await (await client.start(flow)).result(30)
