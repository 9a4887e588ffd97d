"""A workflow's tasks are numbered in the order in which they are made, however the loop interleaves them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from everstep.branch import Branch, current_branch
from everstep.branches import numbering_task_factory

Map = dict[str, list[tuple[str, int]]]


async def work(found: Map, name: str, dice: random.Random, depth: int) -> None:
    """Takes positions, makes tasks of its own in every way there is, at random moments."""
    for n in range(2):
        branch = current_branch.get()
        assert branch is not None
        found.setdefault(name, []).append(branch.next_position())
        await asyncio.sleep(dice.choice((0, 0, 0.0005)))
        if depth:
            await asyncio.gather(
                *[work(found, f"{name}/g{n}{m}", dice, depth - 1) for m in range(2)]
            )
            task = asyncio.create_task(work(found, f"{name}/t{n}", dice, depth - 1))
            async with asyncio.TaskGroup() as group:
                for m in range(2):
                    group.create_task(work(found, f"{name}/q{n}{m}", dice, depth - 1))
            await task


def identities(loop_factory: Callable[[], asyncio.AbstractEventLoop], seed: int) -> Map:
    found: Map = {}

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(numbering_task_factory)  # type: ignore[arg-type]
        current_branch.set(Branch(execution=Moves()))  # type: ignore[arg-type]
        await work(found, "main", random.Random(seed), 2)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return found


class Moves:
    """What a branch counts on its execution."""

    def __init__(self) -> None:
        self.moves = 0
        self.branches = 0
        self.log: dict[object, object] = {}
        self.tasks: set[asyncio.Task[Any]] = set()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_every_schedule_gives_the_same_positions(loop_factory, rng):
    first = identities(asyncio.new_event_loop, rng.randrange(2**32))
    positions = [position for taken in first.values() for position in taken]
    assert len(positions) == len(set(positions)) > 100
    for _ in range(30):
        assert identities(loop_factory, rng.randrange(2**32)) == first


def test_a_task_made_outside_of_a_workflow_has_no_branch():
    async def main() -> Branch | None:
        asyncio.get_running_loop().set_task_factory(numbering_task_factory)  # type: ignore[arg-type]

        async def look() -> Branch | None:
            return current_branch.get()

        return await asyncio.create_task(look())

    assert asyncio.run(main()) is None
