"""A tenure: one registration of a worker, from its row in the database to the end of its lease.

Everything that carries the fence lives and dies with it. A process that lost its lease begins a new tenure
under a new uuid; nothing of the old one can write any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from everstep.context import Execution
from everstep.engine.cancellations import Cancellations
from everstep.engine.heartbeat import Listener, boottime
from everstep.engine.loops import Loop, Outage, run
from everstep.engine.parts import Parts, Terms
from everstep.engine.sweeper import Strays, Sweeper
from everstep.errors import Cancelled, DatabaseUnreachableError
from everstep.recorder import Probe
from everstep.settings import UNVERSIONED
from everstep.store.connection import Connection, Passing
from everstep.store.workers import WorkerState

log = logging.getLogger("everstep")


class Phase(StrEnum):
    """Where a tenure stands, for the probes."""

    STARTING = "starting"
    LIVE = "live"
    DRAINING = "draining"
    LOST = "lost"
    OVER = "over"


ProbeMaker = Callable[["Tenure", Execution], Probe]
"""Makes the probe of a workflow that a tenure has claimed: for tests."""


class Tenure(Parts):
    """Begin with `begin`, end with `drain` (SIGTERM) or `abandon` (the lease is gone)."""

    def __init__(self, terms: Terms, *, probe: ProbeMaker | None = None) -> None:
        super().__init__(
            terms,
            listener=Listener(beaten=self._beaten, lost=self._lost),
            probe=probe and partial(probe, self),
        )
        self.phase = Phase.STARTING
        self.lost = asyncio.Event()
        self._outage = Outage()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def lease_held(self) -> bool:
        """Whether this worker may write, by its own clock. Any thread may ask."""
        return self.phase in (Phase.LIVE, Phase.DRAINING) and self.heartbeat.held()

    async def begin(self) -> None:
        """Register, and start every loop."""
        at = await self._link.retry(self._register)
        self._clock.observe(at)
        self.heartbeat.start()
        settings = self._settings
        self._spawn(self.committer.run())
        self._spawn(self._waker.run())
        self._spawn(self._transactors.greet())
        self._spawn(self._lookout.run())
        self._loop(self.claimer)
        self._loop(self._declarer)
        self._loop(self.timers)
        self._loop(self.sampler)
        await self._link.retry(self.scheduler.declare)
        self._loop(self.scheduler)
        self._loop(Cancellations(self._link, self._runs, self.runner))
        self._loop(Strays(self._link, self._runs, self.runner, interval=settings.lease_ttl))
        self._loop(
            Sweeper(
                self._link,
                self._runs,
                self._workers,
                self._messages,
                ttl=settings.lease_ttl,
                max_crashes=settings.max_crashes,
                announce=self._announce,
            )
        )
        self.phase = Phase.LIVE

    async def drain(self) -> None:
        """Claim no more, let steps finish for the grace period, give the rest back, leave."""
        self.phase = Phase.DRAINING
        self.committer.leaving = True
        grace = self._settings.grace
        try:
            async with asyncio.timeout(grace):
                await self._set_state(WorkerState.DRAINING)
                await self.claimer.stop()
                await self._steps_done()
        except TimeoutError:
            log.warning("steps were still running after %g s of grace: giving them back", grace)
        await self._leave()

    def look_now(self, at: datetime) -> None:
        """The database's time has jumped, to `at`: everything here that waits for an instant looks again."""
        self._clock.observe(at)
        self.timers.wake.set()
        self.scheduler.wake.set()
        self.claimer.hint()

    async def give_back(self, ids: list[str]) -> None:
        """Release some workflows that this worker holds and no longer runs."""
        await self._link.retry(
            lambda c: self._runs.release_strays(c, ids), give_up=self.lost.is_set
        )
        self._announce()

    def fall_silent(self) -> None:
        """Write nothing more, begin no further effect, claim nothing: the process is as good as gone."""
        self.phase = Phase.LOST
        self.committer.close()
        self.runner.fence_all()
        self.claimer.stopped = True

    async def abandon(self) -> None:
        """The lease is gone: drop everything, write nothing."""
        self.phase = Phase.OVER
        self.committer.close()
        self.runner.fence_all()
        await self._stop_loops()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(5):
                await self.committer.drained()
                self.committer.close()
                released = await self._link.retry(
                    lambda c: self._runs.release(c, self.runner.crashed), give_up=self.lost.is_set
                )
                await self.sampler.stop()
                await self._link.retry(self._workers.drop_tickets, give_up=self.lost.is_set)
                await self._set_state(WorkerState.DEAD)
                log.info("left: %d workflows given back", released)
        except (TimeoutError, DatabaseUnreachableError):
            log.warning("the database did not answer in time: what is left will be rescued")
        await self.abandon()

    async def _steps_done(self) -> None:
        """Wait until no step is running; none begins any more."""
        while any(e.steps_running for e in self.runner.executions.values()):
            self.runner.freed.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self.runner.freed.wait()
            except TimeoutError:
                continue

    async def _register(self, connection: Connection) -> datetime:
        settings, sent = self._settings, boottime()
        at = await self._workers.register(
            connection,
            pod=settings.pod,
            version=settings.version,
            slots=settings.concurrency,
            ttl=settings.lease_ttl,
        )
        self.heartbeat.renewed(sent)
        await self._declarer.declare(connection)
        if settings.version == UNVERSIONED:
            await self._workers.adopt_routing(connection, settings.version)
        routing = await self._workers.routing(connection)
        if settings.version not in (routing.current, routing.ramping):
            log.warning(
                "version %s is not routed to: it runs only workflows it began. "
                "`everstep version promote %s` makes it the current one",
                settings.version,
                settings.version,
            )
        return at

    async def _set_state(self, state: WorkerState) -> None:
        try:
            await self._link.call(lambda c: self._workers.set_state(c, state))
        except Passing as error:
            log.warning("could not mark this worker as %s: %s", state.name.lower(), error)

    async def _stop_loops(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.heartbeat.stop()
        await self._commit_link.close()
        await self._link.close()
        await self._look_link.close()
        await self._transactors.close()
        await self._metrics_link.close()

    def _loop(self, loop: Loop) -> None:
        self._spawn(run(loop, self._outage))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(self._loop_ended)
        self._tasks.append(task)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a loop of the engine failed; this worker begins anew", exc_info=error)
            self.lost.set()

    def _beaten(self, at: datetime, cancels: list[str]) -> None:
        self._clock.observe(at)
        for workflow_id in cancels:
            self.runner.interrupt(workflow_id, Cancelled())

    def _lost(self, why: str) -> None:
        log.error("lease lost: %s; its workflows run elsewhere", why)
        self.fall_silent()
        self.lost.set()
