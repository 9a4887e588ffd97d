"""Statements of workflow.sql: what clients ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from psycopg import AsyncClientCursor
from psycopg.types.json import Jsonb

from everstep.encoding import Encoding
from everstep.errors import DuplicateWorkflowError, UsageError
from everstep.store.connection import Connection, pooled
from everstep.store.infos import Status, StepInfo, WorkflowInfo
from everstep.store.models import Ending, Outcome, Start, Started
from everstep.store.shown import error_shown, step_shown, workflow_shown
from everstep.store.start_rows import Eager, debounced_arguments, start_arguments, started
from everstep.store.statements import statements
from everstep.store.within import row_within

# The first columns of an answer; behind them is what a codec has made.
_OF_WORKFLOW, _OF_STEP = len(fields(WorkflowInfo)), len(fields(StepInfo))

_WITHIN = (60.0, 3_600.0, 86_400.0, None)
"""How far back a list looks, in seconds, until it has enough: without an end it reads all there ever was."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which workflows to list; None means any. `attributes`: all of these must be there."""

    statuses: Sequence[Status] | None = None
    name: str | None = None
    queue: str | None = None
    version: str | None = None
    id_prefix: str | None = None
    attributes: dict[str, Any] | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        given = [] if self.statuses is None else self.statuses
        if isinstance(given, str) or any(status not in set(Status) for status in given):
            raise UsageError(f"statuses= is a list of {', '.join(Status)}; not {given!r}")


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of a cancel: workflows whose worker is told, workflows finished here, and whom to wake."""

    cancelling: list[str]
    cancelled: list[str]
    wakes: list[str]


class Workflows:
    """The statements of workflow.sql."""

    def __init__(self, schema: str) -> None:
        self._sql = statements(schema)
        self._cancel_free = self._sql["cancel"].replace(b"FOR UPDATE", b"FOR UPDATE SKIP LOCKED")

    async def start(
        self, connection: Connection, starts: Sequence[Start], eager: Eager | None = None
    ) -> Started:
        """Start a batch (ids distinct). An id that exists already is left as it is."""
        if pooled(connection):
            eager = (
                None  # nothing limits how long this statement, and the version it pins, may take
            )
        arguments = start_arguments(starts, eager)
        cursor = await connection.execute(self._sql["start"], arguments)
        return started(await cursor.fetchone())

    async def start_within(self, connection: Any, start: Start) -> Started:
        """Start one workflow in the caller's own transaction, on a connection of theirs (psycopg, SQLAlchemy)."""
        arguments = start_arguments([start], None)
        return started(await row_within(connection, self._sql["start"], arguments))

    async def input_within(self, connection: Any, workflow_id: str) -> tuple[str, bytes] | None:
        """Name and input of a workflow as the caller's transaction sees it: it may have started it itself."""
        row = await row_within(connection, self._sql["inputs"], {"ids": [workflow_id]})
        return None if row is None else (row.name, row.input)

    async def start_debounced(self, connection: Connection, start: Start) -> tuple[str, bool]:
        """Start a workflow, or give one that waits this input. Returns its id, and whether it is new."""
        arguments = debounced_arguments(start)
        cursor = await connection.execute(self._sql["start_debounced"], arguments)
        row = await cursor.fetchone()
        assert row is not None
        return row.id, row.created

    async def debounce_within(self, connection: Any, start: Start) -> tuple[str, bool]:
        """The same in the caller's own transaction."""
        arguments = debounced_arguments(start)
        row = await row_within(connection, self._sql["start_debounced"], arguments)
        return row.id, row.created

    async def inputs(
        self, connection: Connection, ids: Sequence[str]
    ) -> dict[str, tuple[str, bytes]]:
        """Name and input of the workflows with these ids."""
        cursor = await connection.execute(self._sql["inputs"], {"ids": list(ids)})
        return {row.id: (row.name, row.input) for row in await cursor.fetchall()}

    async def outcomes(self, connection: Connection, ids: Sequence[str]) -> list[Outcome]:
        """Those of the workflows that have finished."""
        cursor = await connection.execute(self._sql["outcomes"], {"ids": list(ids)}, binary=True)
        return [
            Outcome(row.id, row.name, Ending(row.status), row.codec, row.output, row.error)
            for row in await cursor.fetchall()
        ]

    async def known_ids(self, connection: Connection, ids: Sequence[str]) -> set[str]:
        """Those of the ids that exist."""
        cursor = await connection.execute(self._sql["known_ids"], {"ids": list(ids)})
        return {row.id for row in await cursor.fetchall()}

    async def describe(
        self, connection: Connection, workflow_id: str, encoding: Encoding
    ) -> WorkflowInfo | None:
        """One workflow with its payloads, or None."""
        cursor = await connection.execute(self._sql["describe"], {"id": workflow_id})
        row = await cursor.fetchone()
        return None if row is None else workflow_shown(_info(row), row, encoding)

    async def list_workflows(
        self, connection: Connection, chosen: Filter, limit: int, encoding: Encoding
    ) -> list[WorkflowInfo]:
        """Workflows, newest first, without payloads."""
        arguments = {
            "statuses": None if chosen.statuses is None else [str(s) for s in chosen.statuses],
            "name": chosen.name,
            "queue": chosen.queue,
            "version": chosen.version,
            "prefix": chosen.id_prefix,
            "attributes": None if chosen.attributes is None else Jsonb(chosen.attributes),
            "since": chosen.since,
            "limit": limit,
        }
        rows: list[Any] = []
        for within in _WITHIN if chosen.since is None else (None,):
            # With the values in it: a plan that fits any filter uses no index, and takes the answer for a row or two,
            # for which it may go through all that is open.
            async with AsyncClientCursor(connection) as cursor:
                await cursor.execute(self._sql["list_workflows"], {**arguments, "within": within})
                rows = await cursor.fetchall()
            if len(rows) >= limit:
                break
        return [
            replace(error_shown(_info(row), row.encoded_error, encoding), error_traceback=None)
            for row in rows
        ]

    async def list_steps(
        self, connection: Connection, workflow_id: str, limit: int, encoding: Encoding
    ) -> list[StepInfo]:
        """The recorded steps of a workflow, in order."""
        cursor = await connection.execute(
            self._sql["list_steps"], {"id": workflow_id, "limit": limit}
        )
        return [
            step_shown(StepInfo(*row[:_OF_STEP]), row, encoding) for row in await cursor.fetchall()
        ]

    async def cancel(
        self, connection: Connection, ids: Sequence[str], error: bytes
    ) -> Cancellation:
        """Cancel workflows: at once if they are not running, else their workers are told."""
        return await self._cancel(connection, self._sql["cancel"], ids, error)

    async def cancel_free(
        self, connection: Connection, ids: Sequence[str], error: bytes
    ) -> Cancellation:
        """The same without waiting for those that somebody holds locked: they are left alone."""
        return await self._cancel(connection, self._cancel_free, ids, error)

    async def _cancel(
        self, connection: Connection, sql: bytes, ids: Sequence[str], error: bytes
    ) -> Cancellation:
        cursor = await connection.execute(sql, {"ids": sorted(ids), "error": error})
        row = await cursor.fetchone()
        assert row is not None
        return Cancellation(row.cancelling, row.cancelled, row.wakes)

    async def overdue(self, connection: Connection) -> list[str]:
        """Up to 500 open workflows whose deadline has passed."""
        cursor = await connection.execute(self._sql["overdue"])
        return [row.id for row in await cursor.fetchall()]

    async def descendants(self, connection: Connection, workflow_id: str) -> list[str]:
        """Open descendants of a workflow."""
        cursor = await connection.execute(self._sql["descendants"], {"id": workflow_id})
        return [row.id for row in await cursor.fetchall()]

    async def restart(self, connection: Connection, start: Start) -> bool:
        """Begin a failed, cancelled or given-up workflow anew. Returns False if it is none of these.

        Raises DuplicateWorkflowError if its deduplication key is held.
        """
        chosen = (
            "id",
            "priority",
            "partition",
            "version",
            "delay",
            "run_at",
            "timeout",
            "deadline",
        )
        arguments = {name: getattr(start, name) for name in (*chosen, "dedup")}
        cursor = await connection.execute(self._sql["restart"], arguments)
        row = await cursor.fetchone()
        assert row is not None
        if row.holder is not None:
            assert start.dedup is not None
            raise DuplicateWorkflowError(start.dedup, row.holder)
        return row.id is not None


def _info(row: Any) -> WorkflowInfo:
    return WorkflowInfo(row.id, row.name, Status(row.status), *row[3:_OF_WORKFLOW])
