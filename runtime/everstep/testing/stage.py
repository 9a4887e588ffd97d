"""The stage of a test: one App, a worker that runs it, a client, and a clock, on a database of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, Unpack, cast, get_args
from uuid import UUID

from everstep.app import App
from everstep.client.asynchronous import Client
from everstep.client.handle import Handle
from everstep.client.startable import StartOptions
from everstep.definitions import Workflow
from everstep.engine.worker import Worker
from everstep.errors import UsageError
from everstep.settings import Settings
from everstep.store.connection import Link
from everstep.store.infos import Status, StepInfo
from everstep.store.testing import FakeClock
from everstep.testing.clock import Clock
from everstep.testing.probe import CrashPoint, Plan, When

R = TypeVar("R")

Replay = Literal["never", "always"]

_MOMENTS = {"before": "before", "after": "after", "recorded": "at the record of"}


class Named(Protocol):
    """A step or a transaction, of any colour."""

    name: str


@dataclass(frozen=True)
class Ran(Generic[R]):
    """A workflow that has finished: what it recorded, and how long it took by the clock of its database."""

    id: str
    status: Status
    steps: Sequence[StepInfo]
    took: timedelta
    _result: R | None
    _error: Exception | None

    @property
    def result(self) -> R:
        """Its result. Raises WorkflowError, WorkflowCancelledError or WorkflowDeadError as it ended."""
        if self._error is not None:
            raise self._error
        return cast(R, self._result)

    @property
    def error(self) -> Exception | None:
        """What `result` raises, if it does."""
        return self._error

    @property
    def step_names(self) -> list[str]:
        """The names of what it recorded, in its order: steps, sleeps, messages, children …"""
        return [step.name for step in self.steps]


class Stage:
    """Made by the fixture everstep_stage; `Stage.open` for what no fixture fits."""

    def __init__(self, worker: Worker, clock: Clock, plan: Plan) -> None:
        self.app = worker.app
        self.url = worker.settings.url
        self.worker = worker
        self.client: Client = worker.client
        self.clock = clock
        self._plan = plan

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        app: App,
        url: str,
        *,
        replay: Replay = "never",
        schedules: bool = True,
        **settings: Any,
    ) -> AsyncIterator[Stage]:
        """A stage on a database that has the fake clock. `settings` are those of everstep.Settings, and `queues`.

        Between two attempts of a step its worker does not pause. With replay="always" a workflow leaves the worker
        after each checkpoint, and is replayed from its log. With schedules=False those of the app are paused.
        """
        _check_options(replay, settings)
        queues = settings.pop("queues", None)
        chosen = Settings(**{"url": url, "grace": 1.0, **settings})
        link = Link(url, "everstep test")
        statements = FakeClock(chosen.schema)

        async def bury(worker: UUID) -> None:
            await link.retry(lambda c: statements.bury(c, worker))

        plan = Plan(replay=replay == "always", skip_pauses=True, bury=bury)
        try:
            async with Worker(app, chosen, queues, probe=plan.probe) as worker:
                for name in () if schedules else app.schedules:
                    await worker.client.schedules.pause(name)
                yield cls(worker, Clock(link, worker), plan)
        finally:
            await asyncio.gather(*plan.tasks, return_exceptions=True)
            await link.close()

    async def run(
        self, workflow: Workflow[..., R], /, *args: Any, **options: Unpack[StartOptions]
    ) -> Ran[R]:
        """Start a workflow and see it to its end, the clock going from timer to timer. Options as in client.start."""
        start = cast(Any, self.client.start)
        return await self.finish(await start(workflow, *args, **options))

    async def finish(self, handle: Handle[R]) -> Ran[R]:
        """See a workflow that was started to its end, the clock going from timer to timer."""
        await self.clock.run_until(handle)
        result, error = None, None
        try:
            result = await handle.result()
        except Exception as raised:  # noqa: BLE001
            error = raised
        info = await handle.info()
        assert info.finished_at is not None
        took = info.finished_at - info.created_at
        return Ran(info.id, info.status, await handle.steps(), took, result, error)

    @contextmanager
    def crash_at(
        self, step: str | Named, *, when: When = "after", times: int = 1
    ) -> Iterator[CrashPoint]:
        """Let the worker die at a step, as a killed process does, and another take over at once.

        `step`: the step, or its name.

        `when`: "before" the step's function is called; "after" it has returned, when nothing is recorded yet (of a
        transaction: before its commit); or when its outcome is "recorded". Nothing is given back or written any
        more: what it held is rescued. Fails if the step is not reached within the `with` block `times` times.
        """
        if when not in get_args(When) or times < 1:
            raise UsageError(
                f"crash_at(…) is when='before', 'after' or 'recorded', and times=1 or more, "
                f"not when={when!r}, times={times!r}"
            )
        name = step if isinstance(step, str) else step.name
        point = CrashPoint(name, when, times)
        self._plan.crashes.append(point)
        try:
            yield point
        finally:
            self._plan.crashes.remove(point)
        if point.left:
            raise AssertionError(
                f"the worker was to die {_times(times)} {_MOMENTS[when]} step {name!r}, and got there "
                f"{_times(point.reached)}. "
                f"Is the step called that, and did the workflow finish within the `with` block?"
            )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _check_options(replay: str, settings: dict[str, Any]) -> None:
    """Raises UsageError for what a stage, or the marker `everstep`, has not."""
    if replay not in get_args(Replay):
        raise UsageError(f"replay= is 'never' or 'always', not {replay!r}")
    known = ["queues", *(setting.name for setting in fields(Settings) if setting.name != "url")]
    if unknown := sorted(settings.keys() - set(known)):
        raise UsageError(
            f"a stage has no option {', '.join(unknown)}; it has replay, schedules, {', '.join(known)}"
        )
