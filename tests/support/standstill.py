"""How long the machine gave this process no time to run: seconds that say nothing about what a test measures."""

from __future__ import annotations

import threading
import time
from typing import Self

_TICK = 0.02


class Standstill:
    """Counts, within its `with` block, the seconds by which a thread that wants to wake up again and again is late."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(_TICK):
            now = time.monotonic()
            self.seconds += max(0.0, now - last - 2 * _TICK)
            last = now
