"""Children that are started through a client, with options: an id of their own, a queue, a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from conftest import StartWorker

import everstep
from everstep import App, Client, Debounce, UsageError, sync


async def test_a_child_takes_the_options_of_a_start(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def child(number: int) -> int:
        return number

    @app.workflow
    async def parent() -> int:
        handle = await client.start(
            child, 7, id="kid", queue="side", priority=3, attributes={"of": "parent"}
        )
        return await handle.result()

    app.queue("side")
    await worker()
    assert await (await client.start(parent, id="p")).result(30) == 7
    kid = await client.get("kid")
    assert kid is not None
    assert (kid.parent_id, kid.queue, kid.attributes) == ("p", "side", {"of": "parent"})


@pytest.mark.parametrize("apart", [False, True], ids=["in one commit", "in two"])
async def test_a_child_started_twice_by_its_id_is_one(
    app: App, worker: StartWorker, client: Client, *, apart: bool
) -> None:
    @app.step
    async def pause() -> None: ...

    @app.workflow
    async def child(number: int) -> int:
        return number

    @app.workflow
    async def parent() -> list[int]:
        one = await client.start(child, 7, id="kid")
        if apart:
            await pause()
            await everstep.sleep(timedelta(seconds=1.1))
        two = await client.start(child, 7, id="kid")
        return [await one.result(), await two.result()]

    await worker()
    handle = await client.start(parent, id="p")
    assert await handle.result(30) == [7, 7]
    assert sorted(info.id for info in await client.list()) == ["kid", "p"]


async def test_a_plain_workflow_starts_a_child_twice_by_its_id(
    app: App, worker: StartWorker, client: Client, database: str
) -> None:
    @app.workflow
    def child(number: int) -> int:
        return number

    with sync.Client.connect(database) as plain:

        @app.workflow
        def parent() -> list[int]:
            one, two = (plain.start(child, 7, id="kid") for _ in range(2))
            return [one.result(), two.result()]

        await worker()
        assert await (await client.start(parent, id="p")).result(30) == [7, 7]


SOON = timedelta(seconds=5)

NOT_OF_A_CHILD: dict[str, Callable[[Client, Any], Awaitable[Any]]] = {
    "dedup": lambda c, w: c.start(w, dedup="k"),
    "on_existing": lambda c, w: c.start(w, id="k", on_existing="reject"),
    "connection": lambda c, w: c.start(w, connection=object()),
    "debounce": lambda c, w: c.start(w, debounce=Debounce("k", window=SOON)),
}


@pytest.mark.parametrize("option", NOT_OF_A_CHILD)
async def test_an_option_that_a_child_cannot_have_is_refused_and_works_in_a_step(
    app: App, worker: StartWorker, client: Client, option: str
) -> None:
    call = NOT_OF_A_CHILD[option]

    @app.workflow
    async def child() -> None: ...

    @app.step
    async def start_it() -> None:
        await call(client, child)

    @app.workflow
    async def parent() -> str:
        try:
            await call(client, child)
        except UsageError as error:
            told = str(error)
        if option != "connection":
            await start_it()
        return told

    await worker()
    told = await (await client.start(parent)).result(30)
    assert f"call client.start(…, {option}=…) in a step" in told
    assert len(await client.list()) == (1 if option == "connection" else 2)


async def test_a_workflow_that_would_wait_for_itself_is_told(
    app: App, worker: StartWorker, client: Client
) -> None:
    @app.workflow
    async def narcissus() -> str:
        itself = await client.start(narcissus, id="n")
        try:
            return await itself.result()
        except UsageError as error:
            return str(error)

    await worker()
    told = await (await client.start(narcissus, id="n")).result(30)
    assert "workflow 'n' waits for its own result" in told
