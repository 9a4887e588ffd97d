"""The sampler: one pod at a time asks Postgres what the whole application is doing.

Whoever holds the `metrics` ticket folds deltas into totals, runs the catalogue's statements and publishes what
they said; the others only ask for the ticket. Each statement fails alone: its metrics keep their last value for
four intervals and then disappear, never to a false zero. A slow statement runs less often, so that the sampler
uses no more than a fiftieth of one connection's time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from everstep.engine.heartbeat import boottime
from everstep.errors import DatabaseRefusedError, SchemaError
from everstep.metrics import families
from everstep.metrics.catalogue import Query
from everstep.metrics.local import LocalMetrics
from everstep.metrics.snapshot import EMPTY, Reading, Snapshot, rendered
from everstep.metrics.tally import Tally
from everstep.store.connection import Connection, Link, Passing, RowRejected
from everstep.store.metrics import FOLD_ROWS, STATEMENT_SECONDS, MetricRows, Total
from everstep.store.workers import Workers

log = logging.getLogger("everstep")

T = TypeVar("T")

TICKET_SECONDS = 30.0
SHOWN_INTERVALS = 4
SHARE = 50
FOLD = "metrics_fold"
FOLD_ROUNDS = 10


class Sampler:
    """`begun`: the (queue, workflow) pairs whose totals are shown before their first event."""

    name = "metrics"
    interval = 10.0

    def __init__(
        self,
        link: Link,
        rows: MetricRows,
        workers: Workers,
        metrics: LocalMetrics,
        *,
        begun: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._link = link
        self._rows = rows
        self._workers = workers
        self._metrics = metrics
        self._tally = Tally(begun)
        self._names = families.Names()
        self._readings: dict[Query, Reading] = {}
        self._rests: dict[str, float] = {}
        self._failing: set[str] = set()
        self._turn = asyncio.Lock()
        self._stopped = False
        self.wake = asyncio.Event()

    async def run_once(self) -> int:
        """Hold the ticket, or try to; with it, fold, ask and publish."""
        async with self._turn:
            asked = boottime()
            if self._stopped or not await self._link.call(self._hold):
                self._metrics.publish(EMPTY)
                return 0
            await self._fold()
            for query in Query:
                # Whatever is slow must not cost the ticket: the rest has its turn in the next round.
                if boottime() < asked + TICKET_SECONDS / 2:
                    await self._read(query)
            self._metrics.names_merged(self._names.merged())
            # The ticket runs from before it was asked for: the database may have granted it that early.
            self._metrics.publish(Snapshot(asked + TICKET_SECONDS, dict(self._readings)))
        return 0

    async def stop(self) -> None:
        """Show nothing global any more; once this returns, the ticket may be given back."""
        self._stopped = True
        self._metrics.publish(EMPTY)
        async with self._turn:
            self._metrics.publish(EMPTY)

    async def _hold(self, connection: Connection) -> bool:
        return await self._workers.hold_ticket(connection, "metrics", TICKET_SECONDS)

    async def _fold(self) -> None:
        for _ in range(FOLD_ROUNDS):
            folded = await self._ask(FOLD, self._rows.fold)
            if folded is None or folded < FOLD_ROWS:
                return

    async def _read(self, query: Query) -> None:
        if boottime() < self._rests.get(query, 0.0):
            return
        if query is Query.TOTALS:
            totals = await self._ask(query, self._rows.totals)
            text = None if totals is None else await asyncio.to_thread(self._totals, totals)
        else:
            rows = await self._ask(query, lambda connection: self._rows.gauge(connection, query))
            text = None if rows is None else await asyncio.to_thread(self._gauges, query, rows)
        if text is not None:
            until = boottime() + SHOWN_INTERVALS * self._interval_of(query)
            self._readings[query] = Reading(text, until)

    # In a thread: thousands of series take tens of milliseconds, which the event loop is not to stand still for.

    def _totals(self, rows: list[Total]) -> bytes:
        self._tally.update(rows)
        return rendered(families.totals(self._tally.shown(), self._names))

    def _gauges(self, query: Query, rows: list[Mapping[str, Any]]) -> bytes:
        return rendered(families.gauges(query, rows, self._names))

    async def _ask(
        self, statement: str, function: Callable[[Connection], Awaitable[T]]
    ) -> T | None:
        """Run one statement, measure it, and let it fail alone."""
        began = boottime()
        try:
            answer = await self._link.call(function)
        except (Passing, RowRejected, DatabaseRefusedError, SchemaError) as error:
            self._failed(statement, error)
            return None
        finally:
            self._rest(statement, boottime() - began)
        self._failing.discard(statement)
        self._metrics.queried(
            statement, seconds=boottime() - began, interval=self._interval_of(statement)
        )
        return answer

    def _rest(self, statement: str, seconds: float) -> None:
        """Let a slow statement wait until it has had its share; a quick one runs every round. A fold is no question."""
        # Postgres ends it at its time limit; what took longer was this process.
        rest = min(seconds, STATEMENT_SECONDS) * SHARE
        if rest > self.interval and statement != FOLD:
            self._rests[statement] = boottime() + rest

    def _failed(self, statement: str, error: Exception) -> None:
        self._metrics.query_failed(statement)
        if statement not in self._failing:
            log.warning("metrics: %s fails, its values will disappear: %s", statement, error)
        self._failing.add(statement)

    def _interval_of(self, statement: str) -> float:
        """How long from one run of a statement to the next."""
        return max(self.interval, self._rests.get(statement, 0.0) - boottime())
