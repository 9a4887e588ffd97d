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
from everstep.testing.stage import Ran, Replay, Stage

R = TypeVar("R")
T = TypeVar("T")


class SyncClock:
    """Clock without `await`."""

    def __init__(self, stage: SyncStage, clock: Clock) -> None:
        self._wait = stage.wait
        self._clock = clock

    def now(self) -> datetime:
        return self._wait(self._clock.now())

    def advance(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        return self._wait(self._clock.advance(duration, **parts))

    def advance_to(self, instant: datetime) -> datetime:
        return self._wait(self._clock.advance_to(instant))

    def jump(self, duration: timedelta | None = None, /, **parts: float) -> datetime:
        return self._wait(self._clock.jump(duration, **parts))

    def run_until(self, handle: Started) -> None:
        self._wait(self._clock.run_until(handle))

    def quiet(self) -> None:
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
        return self.wait(self._stage.run(workflow, *args, **options))

    def finish(self, handle: sync.Handle[R]) -> Ran[R]:
        # The same workflow, asked about by the stage's own client, on the stage's event loop.
        mine: AsyncHandle[R] = AsyncHandle(
            self._stage.client, handle.id, handle.payload, created=False
        )
        return self.wait(self._stage.finish(mine))

    def crash_at(
        self, step: str, *, when: When = "after", times: int = 1
    ) -> AbstractContextManager[CrashPoint]:
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
