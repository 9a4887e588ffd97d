"""The lease: renewed from a thread of its own with its own connection, so a blocked loop is not a dead worker.

The thread also watches the loop: one that has not moved for the watchdog's time is dead after all; the
stacks are written to standard error and the process exits with code 70, so that its lease runs out.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from everstep.store.beats import BeatError, HeartbeatConnection

log = logging.getLogger("everstep")

EXIT_WATCHDOG = 70
BEATS_PER_LEASE = 3


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Whom the thread tells what it learns; called on the event loop."""

    beaten: Callable[[datetime, list[str]], None]
    lost: Callable[[str], None]


def boottime() -> float:
    """A clock that goes on while the machine sleeps, where there is one: a paused host has lost its lease."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Heartbeat:
    """Beats until stopped, declared dead, or out of time. `deadline` is when the lease ends, by boottime.

    It begins with the registration: call `renewed` then.
    """

    def __init__(
        self, url: str, schema: str, me: UUID, *, ttl: float, watchdog: float, listener: Listener
    ) -> None:
        self._connection = HeartbeatConnection(url, schema, me, ttl)
        self._ttl, self._watchdog = ttl, watchdog
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everstep-heartbeat", daemon=True)
        self.deadline = boottime()
        self.last_tick = boottime()
        self._still = 0

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def held(self) -> bool:
        """Whether the lease still holds, by this machine's own clock."""
        return boottime() < self.deadline

    def renewed(self, sent: float) -> None:
        """The lease counts from before it was asked for: the database may have set it that early."""
        self.deadline = sent + self._ttl

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._ttl / BEATS_PER_LEASE):
                self._watch_loop()
                if not self._beat():
                    return
        finally:
            self._connection.close()

    def _beat(self) -> bool:
        """One beat that gets through. Returns False once the lease is lost, or this is to stop."""
        while True:
            sent = boottime()
            try:
                reply = self._connection.beat()
            except BeatError as error:
                log.warning("heartbeat failed: %s", error)
                if not self._time_left():
                    return False
                continue
            if reply is None:
                self._tell(self._listener.lost, "another worker declared this one dead")
                return False
            self.renewed(sent)
            self._tell(self._listener.beaten, reply.at, reply.cancels)
            return True

    def _time_left(self) -> bool:
        """Pause before another try: a short one, because what is left of the lease is not much more than a beat."""
        if self.held():
            return not self._stop.wait(random.uniform(0.5, 1.0) * min(1.0, self._ttl / 10))  # noqa: S311
        self._tell(self._listener.lost, f"no heartbeat reached the database for {self._ttl:g} s")
        return False

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            self._stop.set()  # the loop is closed: the process is on its way out

    def _watch_loop(self) -> None:
        """Once per beat: has the loop moved since the last one?

        Beats are counted, not seconds: after a pause of the whole process this thread may be the first to wake.
        """
        self._tell(self._tick)
        self._still += 1
        if self._still * self._ttl / BEATS_PER_LEASE > self._watchdog:
            seconds = boottime() - self.last_tick
            sys.stderr.write(
                f"everstep: the event loop has not moved for {seconds:.0f} s; stacks follow\n"
            )
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            sys.stderr.flush()
            os._exit(EXIT_WATCHDOG)

    def _tick(self) -> None:
        self.last_tick = boottime()
        self._still = 0
