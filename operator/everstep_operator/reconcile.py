"""The loop: a queue of keys, each handled by observe, plan, apply, report, and due again later.

Events only bring a key forward. Nothing is remembered of why: one pass over one object is right
after any crash, and two passes over it never run at the same time.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from everstep_operator.apply import Applier, Failure
from everstep_operator.database import Databases
from everstep_operator.events import events
from everstep_operator.freshness import Freshness
from everstep_operator.kube import APPS, Kube, KubeError
from everstep_operator.metrics import Metrics
from everstep_operator.observe import Memory, Observer
from everstep_operator.planning.actions import Action, MarkDrained
from everstep_operator.planning.planner import DRAINING, ROLLING, plan
from everstep_operator.report import report, report_invalid
from everstep_operator.resource import DurableApp, parse
from everstep_operator.schema import InvalidError
from everstep_operator.settings import Settings

log = logging.getLogger("everstep.operator")

_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0
_DEBOUNCE = 0.05


@dataclass(slots=True)
class Reconciler:
    settings: Settings
    kube: Kube
    databases: Databases = field(default_factory=Databases)
    memory: Memory = field(default_factory=Memory)
    metrics: Metrics = field(default_factory=Metrics)
    freshness: Freshness = field(default_factory=Freshness)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    moved: float = field(default_factory=time.monotonic)
    """When the loop last turned."""
    _due: dict[str, float] = field(default_factory=dict)
    _busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, namespace: str, name: str) -> None:
        """Bring an object forward; many events in a moment are one look."""
        key, now = f"{namespace}/{name}", time.monotonic()
        self._due[key] = min(self._due.get(key, now + _DEBOUNCE), now + _DEBOUNCE)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Open looks are finished or cancelled with it."""
        resync = asyncio.create_task(self._resync())
        try:
            while True:
                self.moved = time.monotonic()
                self._start_due()
                await self._wait()
        finally:
            tasks = [resync, *self._busy.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.databases.close()

    def _start_due(self) -> None:
        now = time.monotonic()
        ready = [k for k, at in self._due.items() if at <= now and k not in self._busy]
        self.metrics.queue.set(len(ready))
        for key in sorted(ready, key=self._due.__getitem__):
            if len(self._busy) >= self.settings.parallel:
                return
            del self._due[key]
            self._busy[key] = asyncio.create_task(self._handle(key))

    async def _wait(self) -> None:
        now = time.monotonic()
        coming = [at for key, at in self._due.items() if key not in self._busy]
        full = len(self._busy) >= self.settings.parallel
        pause = 5.0 if full or not coming else min(5.0, max(0.0, min(coming) - now))
        try:
            await asyncio.wait_for(self._wake.wait(), pause)
        except TimeoutError:
            return
        self._wake.clear()

    async def _handle(self, key: str) -> None:
        try:
            with self.metrics.measured():
                pause = await self.once(key)
            self._failures.pop(key, None)
            if pause is not None:
                self._later(key, pause)
        except Exception as error:  # noqa: BLE001 - one object's fault must not end the others
            self._later(key, self._backoff(key, error))
        finally:
            self.metrics.count_writes(self.kube)
            del self._busy[key]
            self._wake.set()

    def _later(self, key: str, pause: float) -> None:
        at = time.monotonic() + pause
        self._due[key] = min(self._due.get(key, at), at)

    def _backoff(self, key: str, error: Exception) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** (count - 1)) * random.uniform(0.8, 1.2)  # noqa: S311
        # The first failure with everything that helps, the next ones in one line.
        expected = isinstance(error, KubeError)
        trace = error if count == 1 and not expected else None
        log.warning("%s: %s; again in %.0f s", key, error, pause, exc_info=trace)
        return pause

    async def once(self, key: str) -> float | None:
        """One look at one object; when to look again, or None if it is gone."""
        namespace, _, name = key.partition("/")
        try:
            body = await self.kube.get(APPS, namespace, name)
        except KubeError as error:
            if not error.gone:
                raise
            await self._forget(key)
            return None
        try:
            app = parse(body)
        except InvalidError as error:
            applier = Applier(self.kube, self.databases, self.memory)
            await applier.write_status(body, report_invalid(body, str(error), self.clock()))
            return self.settings.resync_seconds
        return await self._pass(key, app, body)

    async def _pass(self, key: str, app: DurableApp, body: dict[str, Any]) -> float:
        applier = Applier(self.kube, self.databases, self.memory)
        observed = await Observer(self.kube, self.databases, self.memory).observe(key, app)
        now = self.clock()
        decided = plan(app, observed, now)
        for action in decided.actions:
            log.info("%s: %s", key, _summary(action))
        failures = await applier.apply(key, app, decided.actions)
        status = report(app, observed, decided, _messages(failures), now)
        refused = [id(failure.action) for failure in failures]
        done = tuple(a for a in decided.actions if id(a) not in refused)
        await applier.write_status(body, status)
        for event in events(body, status, done, now):
            await applier.post(event)
        self.metrics.show(app.namespace, app.name, observed, status)
        if failures:
            return max(DRAINING, decided.interval)  # refused again at once helps nobody
        acted = any(not isinstance(action, MarkDrained) for action in decided.actions)
        return min(ROLLING, decided.interval) if acted else decided.interval

    async def _forget(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        self.memory.forget(key)
        self.freshness.forget(key)
        self.metrics.forget(namespace, name)
        await self.databases.forget(key)

    async def _resync(self) -> None:
        """Find objects whose events were lost, and notice when events stop coming at all."""
        namespaces = self.settings.namespaces or (None,)
        for namespace in namespaces:
            self.freshness.expect(_list_of(namespace), time.monotonic())
        while True:
            for namespace in namespaces:
                await _tolerant(self._list(namespace))
            now = time.monotonic()
            self.metrics.stale.set(max(self.freshness.lag(now), self.freshness.silence(now)[1]))
            await asyncio.sleep(self.settings.resync_seconds)

    async def _list(self, namespace: str | None) -> None:
        found = await self.kube.items(APPS, namespace)
        self.freshness.answered(_list_of(namespace), time.monotonic())
        for body in found:
            meta = body["metadata"]
            key = f"{meta['namespace']}/{meta['name']}"
            self.freshness.listed(key, meta["resourceVersion"], time.monotonic())
            if key not in self._due and key not in self._busy:
                self.wake(meta["namespace"], meta["name"])


def _list_of(namespace: str | None) -> str:
    return f"list of {APPS.path(namespace)}"


async def _tolerant(work: Awaitable[None]) -> None:
    try:
        await work
    except KubeError as error:
        log.warning("listing DurableApps: %s", error)


def _summary(action: Action) -> str:
    """An action without the object it carries."""
    facts = {f.name: getattr(action, f.name) for f in fields(action) if f.name != "body"}
    body = getattr(action, "body", None)
    if body is not None:
        facts["name"] = body["metadata"]["name"]
    return f"{type(action).__name__} " + " ".join(f"{k}={v}" for k, v in facts.items())


def _messages(failures: tuple[Failure, ...]) -> tuple[str, ...]:
    return tuple(f"{type(f.action).__name__}: {f.message}" for f in failures)
