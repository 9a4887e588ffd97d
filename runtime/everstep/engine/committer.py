"""Group commit: the only writer of checkpoints, completions and parks (docs/internals/group-commit.md).

One batch is in flight; whatever arrives meanwhile goes into the next. There is no timer: an idle worker
commits at once, a busy one commits more at a time. All rows of a batch share one acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from everstep.acknowledgement import Acknowledgement
from everstep.context import Execution
from everstep.engine.culprit import NEVER, commit_around
from everstep.engine.group import (
    Group,
    add_checkpoint,
    add_child,
    add_park,
    all_mine,
    only,
    owned,
)
from everstep.errors import Cancelled, Fenced, Parked, PayloadError
from everstep.recorder import Eyes, Transactor
from everstep.store.connection import Link, RowRejected
from everstep.store.models import Checkpoint, CommitBatch, Committed, Ending, Start
from everstep.store.runs import Runs

log = logging.getLogger("everstep")

MAX_ROWS = 300
MAX_BYTES = 1_048_576


class DatabaseClock:
    """The database's time, as last seen, carried on by this process's monotonic clock.

    Never ahead of the database: what it saw was already past when the reply came.
    """

    def __init__(self) -> None:
        self._seen: tuple[datetime, float] | None = None

    def observe(self, at: datetime) -> None:
        self._seen = (at, time.monotonic())

    def until(self, when: datetime) -> float:
        """Seconds from now until `when`; not positive once it has passed."""
        if self._seen is None:
            raise AssertionError("the database's time is observed when a worker registers")
        at, mark = self._seen
        return (when - at - timedelta(seconds=time.monotonic() - mark)).total_seconds()


class Committer:
    """Collects rows into groups and commits them, one group at a time, for as long as the lease holds."""

    def __init__(
        self,
        link: Link,
        runs: Runs,
        clock: DatabaseClock,
        *,
        observe: Callable[[int, float], None],
        stir: Callable[[list[str]], None],
        eyes: Eyes,
        transactor: Transactor,
    ) -> None:
        self.transactor = transactor
        self._stir = stir
        self.eyes = eyes
        self._link = link
        self._runs = runs
        self.clock = clock
        self._observe = observe
        self._groups: deque[Group] = deque()
        self._flying: Group | None = None
        self._arrived = asyncio.Event()
        self.closed = False
        self.leaving = False
        self.left = asyncio.Event()
        self.lease: Callable[[], bool] = lambda: True

    def held(self) -> bool:
        """Whether this worker may write and begin effects, as far as it knows. Any thread may ask."""
        return not self.closed and self.lease()

    def checkpoint(
        self, execution: Execution, row: Checkpoint, child: Start | None = None
    ) -> Acknowledgement:
        """Add a checkpoint to the next commit, and with it the start of a child."""
        size = len(row.output or b"") + len(row.error or b"") + 100
        group = self._collecting(
            execution, size if child is None else size + len(child.input) + 200
        )
        if child is not None:
            add_child(group.rows, execution, child)
        add_checkpoint(group.rows, execution, row)
        return group.done

    def finish(
        self, execution: Execution, ending: Ending, output: bytes | None, error: bytes | None
    ) -> Acknowledgement:
        """Add a completion to the next commit."""
        group = self._collecting(execution, len(output or b"") + len(error or b"") + 100)
        rows = group.rows
        rows.d_id.append(execution.id)
        rows.d_epoch.append(execution.epoch)
        rows.d_status.append(ending)
        rows.d_output.append(output)
        rows.d_error.append(error)
        return group.done

    def park(
        self, execution: Execution, wake_at: datetime | None, key: str, signals: int | None
    ) -> Acknowledgement:
        """Add a park to the next commit: the workflow leaves this worker until it wakes.

        With `signals`, only if nothing has happened to it since it knew of so many.
        """
        group = self._collecting(execution, 100)
        add_park(group.rows, execution, wake_at, key, signals=-1 if signals is None else signals)
        return group.done

    def hand_over(self, execution: Execution, row: Checkpoint, generation: int) -> Acknowledgement:
        """Add the end of a generation to the next commit: the next one's input, and the workflow leaves this worker.

        Both in one group: without the other, neither means anything.
        """
        group = self._collecting(execution, len(row.output or b"") + 200)
        add_checkpoint(group.rows, execution, row)
        add_park(group.rows, execution, generation=generation)
        return group.done

    async def run(self) -> None:
        """Commit groups for ever."""
        while True:
            await self._arrived.wait()
            while self._groups:
                self._flying = self._groups.popleft()
                await self._flush(self._flying)
                self._flying = None
            self._arrived.clear()

    async def drained(self) -> None:
        """Wait until everything added so far is durable."""
        last = self._groups[-1] if self._groups else self._flying
        if last is not None:
            await last.done.wait()

    def close(self) -> None:
        """The lease is gone: nothing more is written, and whoever waits is fenced."""
        self.closed = True
        self.left.set()
        for group in [*([self._flying] if self._flying else []), *self._groups]:
            _fence_all(group)
        self._groups.clear()

    def _collecting(self, execution: Execution, size: int) -> Group:
        if self.closed:
            execution.interrupt(Fenced())
            raise Fenced
        group = self._groups[-1] if self._groups else None
        if group is None or len(group.rows) >= MAX_ROWS or group.size + size > MAX_BYTES:
            group = Group()
            self._groups.append(group)
            self._arrived.set()
        group.size += size
        group.executions[execution.id] = execution
        return group

    async def _flush(self, group: Group) -> None:
        began = time.perf_counter()
        at = await self._write(group, group.rows)
        self._observe(len(group.rows), time.perf_counter() - began)
        group.done.give(at)

    async def _write(self, group: Group, rows: CommitBatch, *, waiting: bool = False) -> datetime:
        """Commit rows, whatever it takes: repeated through faults, and around a row that is refused."""
        try:
            return await self._commit(group, rows, waiting=waiting)
        except RowRejected as error:
            return await commit_around(
                rows.ids(),
                str(error),
                lambda ids: self._commit(group, only(rows, ids)),
                lambda id_, reason: self._refuse(group.executions[id_], only(rows, {id_}), reason),
            )

    async def _commit(self, group: Group, rows: CommitBatch, *, waiting: bool = False) -> datetime:
        reply = await self._repeat(rows, waiting=waiting)
        self.clock.observe(reply.at)
        for id_ in reply.cancels:
            group.executions[id_].interrupt(Cancelled())
        if reply.leftovers:
            await self._settle_leftovers(group, only(rows, set(reply.leftovers)), waiting=waiting)
        for id_ in set(rows.p_id).difference(reply.stirred, reply.leftovers):
            group.executions[id_].interrupt(Parked())
        if reply.wakes or reply.children or any(rows.p_generation):
            self._stir(reply.wakes)
        return reply.at

    async def _repeat(self, rows: CommitBatch, *, waiting: bool) -> Committed:
        # Sending the same rows again after an unknown outcome is harmless: the verdict finds them mine.
        return await self._link.retry(
            lambda connection: self._runs.commit(connection, rows, waiting=waiting),
            give_up=lambda: self.closed,
        )

    async def _settle_leftovers(self, group: Group, rows: CommitBatch, *, waiting: bool) -> None:
        verdicts = await self._link.retry(
            lambda connection: self._runs.verdicts(connection, owned(rows)),
            give_up=lambda: self.closed,
        )
        again: set[str] = set()
        for id_, verdict in verdicts.items():
            if verdict.owner and not all_mine(rows, verdict):
                again.add(id_)
            elif not verdict.owner and not verdict.finished:
                group.executions[id_].interrupt(Fenced())
        if not again:
            return
        if waiting:
            raise AssertionError(
                f"rows of {sorted(again)} are refused although this worker owns them"
            )
        # Somebody (a sender, a transaction) had the run locked: wait for them, apart from the others.
        await self._write(group, only(rows, again), waiting=True)

    def _refuse(self, execution: Execution, rows: CommitBatch, reason: str) -> None:
        log.error("workflow %s: the database refuses its row: %s", execution.id, reason)
        for branch, seq in zip(rows.c_branch, rows.c_seq, strict=True):
            execution.log.pop((branch, seq), None)
        # What it handed over meanwhile, perhaps its end, builds on the row that is not there.
        for group in self._groups:
            group.rows = only(group.rows, group.rows.ids() - {execution.id})
        execution.broken = PayloadError(
            f"the database refuses what workflow {execution.id} records: {reason}"
        )


def _fence_all(group: Group) -> None:
    for execution in group.executions.values():
        execution.interrupt(Fenced())
    group.done.give(NEVER)
