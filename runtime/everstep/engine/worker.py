"""The worker: one process that claims and runs workflows until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from msgspec import structs

from everstep.app import App
from everstep.branches import numbering_task_factory
from everstep.catchalls import warn_of_catchalls
from everstep.client.asynchronous import Client
from everstep.client.starter import Here
from everstep.codec import JSON
from everstep.durable.adoption import adopt_time_limits
from everstep.engine.loops import pause_after
from everstep.engine.parts import Terms
from everstep.engine.tenure import Phase, ProbeMaker, Tenure
from everstep.metrics.exporter import Exporter
from everstep.metrics.local import LocalMetrics
from everstep.metrics.vitals import Vitals
from everstep.queues import Queue, queue_name
from everstep.settings import Settings
from everstep.store.connection import Link
from everstep.store.hints import Channel, Ear, Notifier
from everstep.store.models import Claimed, Ending, Outcome, Start
from everstep.store.start_rows import Eager

log = logging.getLogger("everstep")


class Worker:
    """Runs the workflows of an App. Use as `async with Worker(app, settings) as worker`.

    `worker.client` starts workflows that begin here at once, in the statement that starts them.
    `queues`: those to listen to; by default the ones the app's workflows name. `probe`: for tests, what stands
    between a workflow and the worker (everstep.testing).
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        queues: Sequence[str | Queue] | None = None,
        *,
        probe: ProbeMaker | None = None,
    ) -> None:
        app.check()
        warn_of_catchalls(app.workflows.values())
        for database in app.databases.values():
            database.address()
        self._probe = probe
        self.app = app
        self.settings = settings
        self.queues = [queue_name(queue) for queue in queues or app.queues()]
        self.client = Client(
            settings.url,
            settings.schema,
            max_payload=app.max_payload,
            codec=app.codec,
            listen=settings.listen,
        )
        self.metrics = LocalMetrics(settings.app or app.name, settings.version)
        self.tenure: Tenure | None = None
        self.vitals = Vitals(
            phase=lambda: self.phase,
            lease_held=lambda: self.lease_held,
            woke_late=self.metrics.woke_late,
        )
        self.metrics.watch(
            slots=settings.concurrency, used=self._running, lease_held=lambda: self.lease_held
        )
        self._exporter: Exporter | None = None
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="everstep-plain")
        self._keeper: asyncio.Task[None] | None = None
        self._side_tasks: list[asyncio.Task[None]] = []
        self._notify_link = Link(settings.url, "everstep notify")
        self._notifier = Notifier(self._notify_link, settings.schema)

    async def __aenter__(self) -> Self:
        adopt_time_limits()
        asyncio.get_running_loop().set_task_factory(numbering_task_factory)  # type: ignore[arg-type]
        if self.settings.port is not None:
            self._exporter = Exporter(self.metrics, self.vitals, self.settings.port)
            self._exporter.start()
        try:
            await self._enter()
        except BaseException:
            await self.stop()
            raise
        return self

    async def _enter(self) -> None:
        await self.client.open()
        side = (self._notifier.run(), self.vitals.run())
        self._side_tasks = [asyncio.create_task(loop) for loop in side]
        if self.settings.listen:
            ear = Ear(self.settings.url, self.settings.schema, {Channel.READY: self._hint})
            self._side_tasks.append(asyncio.create_task(ear.run()))
        self.app.workers.add(self)
        await self._begin()
        self._keeper = asyncio.create_task(self._keep())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Drain and leave: nothing is lost, whatever is not finished is claimed elsewhere."""
        self.client.run_here(None)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.tenure is not None:
            await (self.tenure.abandon() if self.tenure.lost.is_set() else self.tenure.drain())
            await self._notifier.flush({Channel.READY})
        self.app.workers.discard(self)
        for task in self._side_tasks:
            task.cancel()
        await asyncio.gather(*self._side_tasks, return_exceptions=True)
        await self.client.close()
        await self._notify_link.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._stop_exporter)

    @property
    def phase(self) -> Phase:
        return Phase.STARTING if self.tenure is None else self.tenure.phase

    @property
    def lease_held(self) -> bool:
        return self.tenure is not None and self.tenure.lease_held

    @property
    def port(self) -> int | None:
        """Where probes and metrics are served, if they are."""
        return None if self._exporter is None else self._exporter.port

    async def _begin(self) -> None:
        terms = Terms(
            self.app,
            self.settings,
            self.queues,
            self._threads,
            ended=self._ended,
            announce=self._announce,
            metrics=self.metrics,
        )
        tenure = Tenure(terms, probe=self._probe)
        self.tenure = tenure
        await tenure.begin()
        names = tuple(sorted(self.app.workflows))
        eager = Eager(tenure.me, self.settings.version, names, tuple(self.queues))
        self.client.run_here(
            Here(
                eager,
                room=tenure.claimer.room,
                begin=lambda starts: self._begin_here(tenure, starts),
                hint=self._hint,
            )
        )
        log.info(
            "worker %s (pid %d) runs app %s, version %s, queues %s",
            tenure.me,
            os.getpid(),
            self.app.name,
            self.settings.version,
            ", ".join(self.queues),
        )

    async def _keep(self) -> None:
        """Begin a new tenure whenever the lease is lost: at once, unless the one before was short too."""
        faults, began = 0, time.monotonic()
        while True:
            assert self.tenure is not None
            await self.tenure.lost.wait()
            self.client.run_here(None)
            await self.tenure.abandon()
            faults = faults + 1 if time.monotonic() - began < self.settings.lease_ttl else 0
            if faults:
                await asyncio.sleep(pause_after(faults))
            began = time.monotonic()
            try:
                await self._begin()
            except Exception:
                log.exception("this worker could not begin anew, trying again")
                self.tenure.lost.set()

    def _begin_here(self, tenure: Tenure, starts: list[Start]) -> None:
        for start in starts:
            claimed = Claimed(start.id, start.name, 1, None, 0, start.codec, start.input)
            tenure.runner.start(
                structs.replace(claimed, deadline=start.deadline, queue=start.queue)
            )

    def _ended(
        self, workflow_id: str, ending: Ending, output: bytes | None, error: bytes | None
    ) -> None:
        self.client.outcomes.ended(Outcome(workflow_id, "", ending, JSON, output, error))
        self._notifier.hint(Channel.DONE)

    def _announce(self) -> None:
        """Workflows became claimable: here first, then elsewhere."""
        self._hint()
        self._notifier.hint(Channel.READY)

    def _hint(self) -> None:
        if self.tenure is not None:
            self.tenure.claimer.hint()

    def _running(self) -> int:
        return 0 if self.tenure is None else len(self.tenure.runner.executions)

    def _stop_exporter(self) -> None:
        if self._exporter is not None:
            self._exporter.stop()
            self._exporter = None
