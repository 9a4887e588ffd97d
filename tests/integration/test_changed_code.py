"""Code that was changed under a running workflow: every change, at every place, after every prefix of the log."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from support.waiting import eventually

import everstep
from everstep import App, WorkflowError

ORIGINAL = ["a", "b", "c", "d", "e"]
LENGTH = len(ORIGINAL)


def swapped(place: int) -> list[str]:
    other = place + 1 if place < LENGTH else 1
    changed = list(ORIGINAL)
    changed[place - 1], changed[other - 1] = changed[other - 1], changed[place - 1]
    return changed


def inserted(place: int) -> list[str]:
    return [*ORIGINAL[: place - 1], "new", *ORIGINAL[place - 1 :]]


def removed(place: int) -> list[str]:
    return [*ORIGINAL[: place - 1], *ORIGINAL[place:]]


def renamed(place: int) -> list[str]:
    return [*ORIGINAL[: place - 1], "new", *ORIGINAL[place:]]


def of_another_kind(place: int) -> list[str]:
    return [*ORIGINAL[: place - 1], "sleep", *ORIGINAL[place:]]


CHANGES: dict[str, Callable[[int], list[str]]] = {
    function.__name__: function
    for function in (swapped, inserted, removed, renamed, of_another_kind)
}
CASES = list(itertools.product(CHANGES, range(1, LENGTH + 1), range(LENGTH + 1)))


def app_of(steps_of: Callable[[str, int], list[str]], *, stops: bool) -> App:
    """Workflows that run what `steps_of` says, and with `stops` no further than they are told."""
    app = App("test")

    @app.step(name="step")
    async def step() -> int:
        return 1

    @app.workflow(name="flow")
    async def flow(change: str, place: int, prefix: int) -> str:
        for number, name in enumerate(steps_of(change, place)):
            if stops and number == prefix:
                await asyncio.Event().wait()
            await (everstep.sleep(0) if name == "sleep" else step.options(name=name)())
        if stops:
            await asyncio.Event().wait()
        return "done"

    return app


def first_difference(change: str, place: int) -> int:
    pairs = itertools.zip_longest(CHANGES[change](place), ORIGINAL)
    return next(n for n, (new, old) in enumerate(pairs, 1) if new != old)


async def test_every_change_within_what_is_recorded_is_told_and_overwrites_nothing(
    client, worker, sql
):
    before = app_of(lambda *_: ORIGINAL, stops=True)
    old = await worker(before, grace=0.1)
    handles = await asyncio.gather(
        *[client.start(before.workflows["flow"], *case) for case in CASES]
    )
    recorded = sum(prefix for *_, prefix in CASES)
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.checkpoint") == recorded)
    await old.stop()
    rows = (
        "SELECT c.*, c.xmin::text AS version FROM everstep.checkpoint c ORDER BY workflow_id, seq"
    )
    was = {(row.workflow_id, row.seq): row for row in sql(rows)}
    await worker(app_of(lambda change, place: CHANGES[change](place), stops=False))
    ends = await asyncio.gather(
        *[handle.result(timeout=30) for handle in handles], return_exceptions=True
    )
    told = 0
    for (change, place, prefix), end in zip(CASES, ends, strict=True):
        different = first_difference(change, place)
        if different > prefix:
            assert end == "done", (change, place, prefix)
        else:
            told += 1
            assert isinstance(end, WorkflowError)
            assert "NonDeterminismError" in str(end)
            assert f", step {different}: " in str(end), (change, place, prefix)
    now = {(row.workflow_id, row.seq): row for row in sql(rows)}
    assert {key: now[key] for key in was} == was
    print(f"{told} of {len(CASES)} cases told, the others were changed further on")
    assert told >= 5 * LENGTH


async def test_an_answer_that_is_asked_for_no_more_is_told_with_what_steps_over_it(client, worker):
    before, after = App("test"), App("test")

    @before.workflow(name="fees")
    async def asks() -> bool:
        new = everstep.patched("fees-2")
        await everstep.recv("go")
        return new

    @after.workflow(name="fees")
    async def asks_no_more() -> bool:
        await everstep.recv("go")
        return True

    old = await worker(before)
    handle = await client.start(asks)
    await eventually(handle.steps)
    await old.stop()
    await worker(after)
    await client.send(handle.id, None, "go")
    with pytest.raises(WorkflowError) as caught:
        await handle.result(timeout=30)
    message = caught.value.failure.message
    assert "the log says value patch fees-2, the code calls receive go" in message
    assert 'everstep.deprecate_patch("fees-2")' in message


async def test_an_input_of_other_parameters_is_told_with_those_there_are(client, worker):
    before, after = App("test"), App("test")

    @before.workflow(name="save")
    async def save(account: str, audits: int = 0) -> None:
        await everstep.recv("go")
        everstep.continue_as_new(account, audits=audits + 1)

    @after.workflow(name="save")
    async def save_now(account: str, checks: int = 0) -> None: ...

    handle = await client.start(save, "ada")
    await worker(after)
    with pytest.raises(WorkflowError) as caught:
        await handle.result(timeout=30)
    message = caught.value.failure.message
    assert "Object contains unknown field `audits`" in message
    assert "takes account, checks" in message
    assert "give new ones a default" in message
