"""Two real sessions against one database, their statements interleaved in every order.

An operation is one statement of the engine, in a transaction of its own. It has three stages that can be told
apart from outside: its snapshot is taken (it stops there, at a gate in the statement), it is carried out (or waits
for a lock of the other side), it is committed. Nothing here waits for time to pass: a side stands still when it is
done, or when Postgres says whom it waits for.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from everstep.store.connection import Connection
from everstep.store.messages import Messages
from everstep.store.runs import Runs
from everstep.store.workers import Workers
from everstep.store.workflows import Workflows

GATE = """
CREATE SCHEMA race;
CREATE FUNCTION race.gate() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(current_setting('race.gate')::bigint);
    RETURN true;
END $$;
"""

Reply = Any
Call = Callable[["Side", "World"], Awaitable[Reply]]
Finish = Callable[["Side", "World", Reply], Awaitable[Reply]]


@dataclass(frozen=True)
class Op:
    """One statement by somebody. `finish`: what follows once its reply is there, as the engine would do.

    `again`: a reply of nothing is no answer yet, the statement is repeated later. `commits`: the workflow whose
    rows its owner commits by it; a worker commits one after the other.
    """

    name: str
    call: Call
    finish: Finish | None = None
    again: bool = False
    commits: str | None = None

    async def whole(self, side: Side, world: World) -> Reply:
        return await self.rest(side, world, await self.call(side, world))

    async def rest(self, side: Side, world: World, reply: Reply) -> Reply:
        return reply if self.finish is None else await self.finish(side, world, reply)


@dataclass
class World:
    """What workers know besides the database: at which epoch they claimed what, and what they saw when they looked.

    `loaded`: checkpoints in the log that the heir has. `signals`, `seen`, `message`: of the last look.
    """

    owner: UUID
    epochs: dict[tuple[UUID, str], int] = field(default_factory=dict)
    loaded: int = 0
    signals: int = 0
    seen: bool = False
    message: int = 0

    def epoch(self, worker: UUID, id_: str) -> int:
        return self.epochs.get((worker, id_), 1)


class Side:
    """One session, which may speak for any worker, and the operation it is in the middle of."""

    def __init__(self, number: int, connection: Connection, version: str) -> None:
        self.number = number
        self.connection = connection
        self.pid = connection.info.backend_pid
        self.messages = gated(Messages("everstep"))
        self.workflows = gated(Workflows("everstep"))
        self.task: asyncio.Task[Reply] | None = None
        self.replies: list[Reply] = []
        self._version = version
        self._runs: dict[UUID, Runs] = {}
        self._workers: dict[UUID, Workers] = {}

    def runs(self, worker: UUID) -> Runs:
        if worker not in self._runs:
            self._runs[worker] = gated(Runs("everstep", worker, self._version))
        return self._runs[worker]

    def workers(self, worker: UUID) -> Workers:
        if worker not in self._workers:
            self._workers[worker] = gated(Workers("everstep", worker))
        return self._workers[worker]

    async def execute(self, query: str, *arguments: object) -> list[Any]:
        cursor = await self.connection.execute(query.encode(), arguments)
        return await cursor.fetchall() if cursor.description else []


def gated(speaker: Any) -> Any:
    """The same statements, each with a gate between its snapshot and its first look at a run."""
    speaker._sql = {
        name: re.sub(rb"WHERE (?=r\.)", b"WHERE (SELECT race.gate()) AND ", sql, count=1)
        for name, sql in speaker._sql.items()
    }
    if isinstance(speaker, Runs):
        speaker._commit_waiting = speaker._sql["commit"].replace(b"SKIP LOCKED", b"")
    return speaker


@dataclass
class Trace:
    """What happened in one interleaving: its stages in the order they really took, `~` where one had to wait."""

    stages: list[str] = field(default_factory=list)

    @property
    def waited(self) -> bool:
        return any(stage.endswith("~") for stage in self.stages)


def merges(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every order in which sides with so many stages can take turns."""
    if len(counts) == 1:
        yield (0,) * counts[0]
        return
    total = counts[0] + counts[1]
    for places in itertools.combinations(range(total), counts[0]):
        chosen = set(places)
        yield tuple(0 if place in chosen else 1 for place in range(total))


class Interleaving:
    """Carries out the stages of two sides in one given order."""

    def __init__(self, sides: tuple[Side, Side], controller: Connection, world: World) -> None:
        self._sides = sides
        self._controller = controller
        self._world = world
        self._left: list[list[Callable[[], Awaitable[None]]]] = [[], []]
        self._credits = [0, 0]
        self.trace = Trace()

    async def run(self, staged: Sequence[Op], whole: Sequence[Op], order: Iterable[int]) -> None:
        """Side 0 does `staged` in three stages each, side 1 does `whole`, each of them in one stage.

        Or both in three, if there is one of each.
        """
        fine = len(staged) == len(whole) == 1
        self._left = [
            [stage for op in staged for stage in self._stages(0, op)],
            [
                stage
                for op in whole
                for stage in (self._stages(1, op) if fine else self._stage(1, op))
            ],
        ]
        for turn in order:
            self._credits[turn] += 1
            await self._advance()
        assert self._credits == [0, 0]
        for side in self._sides:
            assert not await self._waits(side), "a session waits although all have committed"

    async def _advance(self) -> None:
        """Let each side do what it may, until both have had their turns or wait for the other."""
        moved = True
        while moved:
            moved = False
            for number, side in enumerate(self._sides):
                while self._credits[number] and not await self._waits(side):
                    self._credits[number] -= 1
                    await self._left[number].pop(0)()
                    moved = True

    def _stages(self, number: int, op: Op) -> list[Callable[[], Awaitable[None]]]:
        side = self._sides[number]

        async def snapshot() -> None:
            await self._controller.execute("SELECT pg_advisory_lock(%s)", [side.number])
            await side.execute("BEGIN")
            side.task = asyncio.create_task(self._reply(side, op.call))
            await self._waits(side)
            self.trace.stages.append(f"{op.name} sees")

        async def carry_out() -> None:
            await self._controller.execute("SELECT pg_advisory_unlock(%s)", [side.number])
            await self._act(side, op)

        async def commit() -> None:
            await side.execute("COMMIT")
            self.trace.stages.append(f"{op.name} commits")

        return [snapshot, carry_out, commit]

    def _stage(self, number: int, op: Op) -> list[Callable[[], Awaitable[None]]]:
        side = self._sides[number]

        async def whole() -> None:
            side.task = asyncio.create_task(self._reply(side, op.whole))
            await self._act(side, op)

        return [whole]

    async def _act(self, side: Side, op: Op) -> None:
        waits = await self._waits(side)
        self.trace.stages.append(f"{op.name}~" if waits else op.name)

    async def _reply(self, side: Side, call: Call) -> None:
        place = len(side.replies)
        side.replies.append(None)
        side.replies[place] = await call(side, self._world)

    async def _waits(self, side: Side) -> bool:
        """Returns once a side stands still: waiting for the other one (True), at its gate, or done."""
        sides = {each.pid for each in self._sides}
        while side.task is not None and not side.task.done():
            cursor = await self._controller.execute("SELECT pg_blocking_pids(%s)", [side.pid])
            (holders,) = await cursor.fetchone() or ([],)
            if self._controller.info.backend_pid in holders:
                return False
            # Others may be in the way for a moment: an autovacuum that gives back the end of a table.
            if sides.intersection(holders) and not side.task.done():
                return True
        if side.task is not None:
            side.task.result()
            side.task = None
        return False
