"""Statements of schedule.sql: schedules as rows, their ticks, and what operators change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from everstep.encoding import PLAIN, Encoding, input_of
from everstep.store.arrays import Byteas, Jsons, Texts, Timestamps
from everstep.store.connection import Connection
from everstep.store.statements import statements


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule as the code says it is. `every` in seconds; one of `cron` and `every` is None."""

    name: str
    workflow: str
    parameter: str
    queue: str
    cron: str | None
    every: float | None
    timezone: str
    catch_up: str
    overlap: str
    next_at: datetime | None

    def words(self) -> str:
        """What is compared with an earlier declaration: all but the name and the next tick."""
        values = {name: getattr(self, name) for name in self.__slots__ if name not in _NOT_WORDS}
        return msgspec.json.encode(values).decode()


_NOT_WORDS = ("name", "next_at")


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule as it is in force, and the database's time at which it was read."""

    name: str
    workflow: str
    parameter: str
    queue: str
    cron: str | None
    every: float | None
    timezone: str
    catch_up: str
    overlap: str
    paused: bool
    declared: dict[str, str | float | None]
    revision: int
    next_at: datetime | None
    last_at: datetime | None
    skipped_at: datetime | None
    removed_at: datetime | None
    now: datetime

    @property
    def interval(self) -> timedelta | None:
        return None if self.every is None else timedelta(seconds=self.every)


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as the view everstep.schedules shows it. `state`: active, paused or removed (from the code).

    `edited`: an operator has changed it since the code declared it.
    """

    name: str
    state: str
    workflow: str
    queue: str
    cron: str | None
    every: timedelta | None
    timezone: str
    catch_up: str
    overlap: str
    edited: bool
    next_at: datetime | None
    last_at: datetime | None
    skipped_at: datetime | None


@dataclass(frozen=True, slots=True)
class Look:
    """What is due. `next_in`: seconds to the earliest tick that is not, None if there is none."""

    now: datetime
    current: str | None
    revision: int
    next_in: float | None
    due: list[str]


@dataclass(frozen=True, slots=True)
class Tick:
    """Workflows to start for ticks of one schedule, as it was looked at, and the tick that comes next.

    `ids`, `ticks` and `inputs` go together. Nothing is started while the workflow `previous` is open. `skipped`
    is the newest tick passed over because of another one here, `last` the newest one if `previous` is open.
    """

    name: str
    expected: datetime
    revision: int
    next_at: datetime | None
    ids: list[str]
    ticks: list[datetime]
    inputs: list[bytes]
    previous: str | None = None
    skipped: datetime | None = None
    last: datetime | None = None


class Schedules:
    """The statements of schedule.sql."""

    def __init__(self, schema: str, encoding: Encoding = PLAIN) -> None:
        self._sql = statements(schema)
        self._encoding = encoding

    async def declare(
        self,
        connection: Connection,
        declarations: Sequence[Declaration],
        *,
        app: str,
        version: str,
        routing: int,
    ) -> tuple[list[str], list[str]]:
        """Write down what the code says, if `version` is the current one still. Returns new or changed, removed."""
        columns = {
            "names": Texts([d.name for d in declarations]),
            "workflows": Texts([d.workflow for d in declarations]),
            "parameters": Texts([d.parameter for d in declarations]),
            "queues": Texts([d.queue for d in declarations]),
            "crons": Texts([d.cron for d in declarations]),
            "everys": [d.every for d in declarations],
            "timezones": Texts([d.timezone for d in declarations]),
            "catch_ups": Texts([d.catch_up for d in declarations]),
            "overlaps": Texts([d.overlap for d in declarations]),
            "declareds": Jsons([d.words() for d in declarations]),
            "nexts": Timestamps([d.next_at for d in declarations]),
        }
        cursor = await connection.execute(
            self._sql["schedule_declare"],
            {**columns, "app": app, "version": version, "routing": routing},
        )
        row = await cursor.fetchone()
        assert row is not None
        return row.declared, row.removed

    async def look(self, connection: Connection) -> Look:
        """The names of what is due, and the routing."""
        cursor = await connection.execute(self._sql["schedule_look"])
        row = await cursor.fetchone()
        assert row is not None
        return Look(*row)

    async def list_schedules(self, connection: Connection) -> list[ScheduleInfo]:
        """All schedules, for people."""
        cursor = await connection.execute(self._sql["schedule_list"])
        return [ScheduleInfo(*row) for row in await cursor.fetchall()]

    async def rows(
        self, connection: Connection, names: Sequence[str] | None = None
    ) -> list[ScheduleRow]:
        """Schedules by name; all of them without names."""
        arguments = {"names": None if names is None else list(names)}
        cursor = await connection.execute(self._sql["schedule_rows"], arguments)
        return [ScheduleRow(*row) for row in await cursor.fetchall()]

    async def lock(self, connection: Connection, tick: Tick) -> bool:
        """Within a transaction: hold the schedule, if it is as it was looked at and nobody else holds it."""
        arguments = {"name": tick.name, "expected": tick.expected, "revision": tick.revision}
        cursor = await connection.execute(self._sql["schedule_lock"], arguments)
        return await cursor.fetchone() is not None

    async def tick(self, connection: Connection, tick: Tick) -> list[str] | None:
        """Start workflows and move on. Returns the ids that are new; None: somebody else has done it."""
        arguments = {
            "name": tick.name,
            "expected": tick.expected,
            "revision": tick.revision,
            "next_at": tick.next_at,
            "ids": Texts(tick.ids),
            "ticks": Timestamps(tick.ticks),
            "inputs": Byteas(self._encoded(tick.ids, tick.inputs)),
            "codec": self._encoding.id,
            "previous": tick.previous,
            "skipped": tick.skipped,
            "last": tick.last,
        }
        cursor = await connection.execute(self._sql["schedule_tick"], arguments)
        row = await cursor.fetchone()
        return list(row.started) if row is not None and row.moved else None

    async def start(
        self, connection: Connection, row: ScheduleRow, ids: Sequence[str], inputs: Sequence[bytes]
    ) -> list[str] | None:
        """Start workflows outside of the course. Returns the ids that are new; None: the schedule has changed."""
        arguments = {
            "name": row.name,
            "revision": row.revision,
            "ids": Texts(list(ids)),
            "inputs": Byteas(self._encoded(ids, inputs)),
            "codec": self._encoding.id,
        }
        cursor = await connection.execute(self._sql["schedule_start"], arguments)
        reply = await cursor.fetchone()
        return list(reply.started) if reply is not None and reply.found else None

    def _encoded(self, ids: Sequence[str], inputs: Sequence[bytes]) -> list[bytes]:
        pairs = zip(ids, inputs, strict=True)
        return [self._encoding.encode(body, input_of(id_)) for id_, body in pairs]

    async def set(self, connection: Connection, row: ScheduleRow) -> bool:
        """Put what an operator may change in force. Returns False if the schedule has changed meanwhile."""
        arguments = {
            "name": row.name,
            "revision": row.revision,
            "queue": row.queue,
            "cron": row.cron,
            "every": row.every,
            "timezone": row.timezone,
            "catch_up": row.catch_up,
            "overlap": row.overlap,
            "paused": row.paused,
            "next_at": row.next_at,
        }
        cursor = await connection.execute(self._sql["schedule_set"], arguments)
        return await cursor.fetchone() is not None
