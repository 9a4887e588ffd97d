"""The parts of a tenure, made and tied together: everything in a worker that writes under one fence.

Nothing runs here; tenure.py says when each part begins and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID, uuid4

from everstep.app import App
from everstep.context import Execution
from everstep.encoding import Encoding
from everstep.engine.claimer import Claimer
from everstep.engine.committer import Committer, DatabaseClock
from everstep.engine.declarer import Declarer
from everstep.engine.heartbeat import Heartbeat, Listener
from everstep.engine.lookout import Lookout, Waker
from everstep.engine.runner import Ended, Runner
from everstep.engine.scheduler import Scheduler
from everstep.engine.sweeper import Timers
from everstep.engine.transactors import transactors
from everstep.metrics.local import LocalMetrics
from everstep.metrics.sampler import Sampler
from everstep.recorder import Probe
from everstep.settings import Settings
from everstep.store.connection import Link
from everstep.store.messages import Messages
from everstep.store.metrics import MetricRows
from everstep.store.queues import LimitedClaims, Queues
from everstep.store.runs import CLAIM_TIMEOUT_SECONDS, Runs
from everstep.store.workers import Workers


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker gives to each of its tenures: whose workflows, how many at a time, and whom to tell."""

    app: App
    settings: Settings
    queues: Sequence[str]
    threads: ThreadPoolExecutor
    ended: Ended
    announce: Callable[[], None]
    metrics: LocalMetrics


class Parts:
    """Links, statements and loops of one registration; `me` is its half of the fence."""

    def __init__(
        self, terms: Terms, *, listener: Listener, probe: Callable[[Execution], Probe] | None
    ) -> None:
        self.me: UUID = uuid4()
        app, settings, metrics = terms.app, terms.settings, terms.metrics
        self._app = app
        self._settings = settings
        self._queues = terms.queues
        self._announce = terms.announce
        self._clock = DatabaseClock()
        self._connect()
        self.heartbeat = self._make_heartbeat(listener)
        self.committer = self._make_committer(metrics)
        self.committer.lease = self.heartbeat.held
        self.runner = Runner(app, self.committer, terms.threads, terms.ended, probe=probe)
        self.claimer = self._make_claimer(metrics)
        self._declarer = self._make_declarer()
        self.timers = Timers(
            self._link,
            self._runs,
            self._workers,
            schema=settings.schema,
            announce=terms.announce,
            stir=self._waker.stir,
        )
        self.scheduler = self._make_scheduler()
        self.sampler = self._make_sampler(metrics)

    def _connect(self) -> None:
        """The links, and what is said over them."""
        settings = self._settings
        self._commit_link = Link(settings.url, "everstep commit", by_index=True)
        self._link = Link(settings.url, "everstep worker", CLAIM_TIMEOUT_SECONDS, by_index=True)
        self._look_link = Link(settings.url, "everstep look", by_index=True)
        self._metrics_link = Link(settings.url, "everstep metrics")
        self._runs = Runs(settings.schema, self.me, settings.version)
        self._workers = Workers(settings.schema, self.me)
        self._encoding = Encoding(self._app.codec)
        self._messages = Messages(settings.schema, self._encoding)
        self._transactors = transactors(self._app, settings, self.me)
        self._waker = Waker(self._link, self._messages, self._announce)
        self._lookout = Lookout(self._look_link, self._messages)

    def _make_heartbeat(self, listener: Listener) -> Heartbeat:
        return Heartbeat(
            self._settings.url,
            self._settings.schema,
            self.me,
            ttl=self._settings.lease_ttl,
            watchdog=self._settings.watchdog,
            listener=listener,
        )

    def _make_committer(self, metrics: LocalMetrics) -> Committer:
        return Committer(
            self._commit_link,
            self._runs,
            self._clock,
            observe=metrics.committed,
            stir=self._waker.stir,
            eyes=self._lookout,
            transactor=self._transactors,
        )

    def _make_claimer(self, metrics: LocalMetrics) -> Claimer:
        return Claimer(
            self._link,
            self._runs,
            LimitedClaims(self._settings.schema, self.me, self._settings.version),
            self.runner,
            names=sorted(self._app.workflows),
            queues=self._queues,
            slots=self._settings.concurrency,
            clock=self._clock,
            observe=metrics.claimed,
            announce=self._announce,
        )

    def _make_declarer(self) -> Declarer:
        return Declarer(
            self._link,
            Queues(self._settings.schema),
            self._settings.version,
            listened=self._queues,
            declared=self._app.declared_queues.values(),
        )

    def _make_scheduler(self) -> Scheduler:
        return Scheduler(
            self._link,
            list(self._app.schedules.values()),
            app=self._app.name,
            schema=self._settings.schema,
            version=self._settings.version,
            encoding=self._encoding,
            announce=self._announce,
        )

    def _make_sampler(self, metrics: LocalMetrics) -> Sampler:
        return Sampler(
            self._metrics_link,
            MetricRows(self._settings.schema),
            self._workers,
            metrics,
            begun=[(workflow.queue, name) for name, workflow in self._app.workflows.items()],
        )
