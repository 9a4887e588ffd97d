"""The stage without `await`, for plain tests: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar, Unpack

from everstep import sync
from everstep.app import App
from everstep.client.handle import Handle as AsyncHandle
from everstep.client.startable import StartOptions
from everstep.definitions import Workflow
from everstep.portal import wait_on
from everstep.testing.clock import Clock, Started
from everstep.testing.probe import CrashPoint, When
from everstep.testing.stage import Named, Ran, Replay, Stage

R = TypeVar("R")
T = TypeVar("T")


class SyncClock:
    """Clock without `await`."""

    def __init__(self, stage: SyncStage, clock: Clock) -> None:
        self._wait = stage.wait
        self._clock = clock

    def now(self) -> datetime:
        """The database's time."""
        return self._wait(self._clock.now())

    def advance(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        """Let so much time pass: a timedelta, or its parts, `advance(days=30)`. Returns the time it is then.

        First everything that can go on does, until it waits. Then whatever is due on the way happens in its order,
        each at its own time: sleeps and timeouts end, deadlines pass, schedules tick. Raises StuckError if
        something does not come to wait within twenty seconds: a step that waits for this very test, for instance.
        """
        return self._wait(self._clock.advance(duration, **parts))

    def advance_to(self, instant: datetime) -> datetime:
        """The same, up to an instant."""
        return self._wait(self._clock.advance_to(instant))

    def jump(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        """Put the clock forward at once, whatever goes on, and wait for nothing: for a step that is running."""
        return self._wait(self._clock.jump(duration, **parts))

    def run_until(self, handle: Started) -> None:
        """Put the clock forward from timer to timer until a workflow has finished, however it ends.

        Raises StuckError if it waits for something that no clock brings, such as a message: at once where nothing
        else has a timer, else after twenty seconds without a change.
        """
        self._wait(self._clock.run_until(handle))

    def quiet(self) -> None:
        """Wait until everything waits: nothing is running, queued or due. Raises StuckError after twenty seconds of the same."""
        self._wait(self._clock.quiet())


class SyncStage:
    """Stage without `await`. Use as `with SyncStage(app, url) as stage`; the fixture everstep_sync_stage is one."""

    client: sync.Client
    clock: SyncClock

    def __init__(self, app: App, url: str, *, replay: Replay = "never", **settings: Any) -> None:
        self.app, self.url = app, url
        self._options: dict[str, Any] = {"replay": replay, **settings}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="everstep-stage", daemon=True
        )
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._stage = self.wait(self._open())
            self.clock = SyncClock(self, self._stage.clock)
            self.client = sync.Client(self.url, self._stage.worker.settings.schema)
            self.client.open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._close()

    def run(
        self, workflow: Workflow[..., R], /, *args: Any, **options: Unpack[StartOptions]
    ) -> Ran[R]:
        """Start a workflow and see it to its end, the clock going from timer to timer. Options as in client.start."""
        return self.wait(self._stage.run(workflow, *args, **options))

    def finish(self, handle: sync.Handle[R]) -> Ran[R]:
        # The same workflow, asked about by the stage's own client, on the stage's event loop.
        """See a workflow that was started to its end, the clock going from timer to timer."""
        mine: AsyncHandle[R] = AsyncHandle(
            self._stage.client, handle.id, handle.payload, created=False
        )
        return self.wait(self._stage.finish(mine))

    def crash_at(
        self, step: str | Named, *, when: When = "after", times: int = 1
    ) -> AbstractContextManager[CrashPoint]:
        """Let the worker die at a step, as a killed process does, and another take over at once.

        `step`: the step, or its name.

        `when`: "before" the step's function is called; "after" it has returned, when nothing is recorded yet (of a
        transaction: before its commit); or when its outcome is "recorded". Nothing is given back or written any
        more: what it held is rescued. Fails if the step is not reached within the `with` block `times` times.
        """
        return self._stage.crash_at(step, when=when, times=times)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return wait_on(self._loop, coroutine)

    async def _open(self) -> Stage:
        return await self._stack.enter_async_context(
            Stage.open(self.app, self.url, **self._options)
        )

    def _close(self) -> None:
        self.wait(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
