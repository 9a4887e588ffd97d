"""Debounce: what `client.start(…, debounce=…)` takes (docs/guides/debounce.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from everstep.durations import seconds_of
from everstep.errors import UsageError
from everstep.store.models import Debounced
from everstep.texts import storable

_MAX_KEY = 512


@dataclass(frozen=True)
class Debounce:
    """Starts of one workflow function with the same key, close to each other, are one start: the last input counts.

    It begins once there has been no start for `window`, and at the latest `max_wait` after the first one
    (seconds or timedelta; by default as late as it takes). Raises UsageError.
    """

    key: str
    window: timedelta | float
    max_wait: timedelta | float | None = None

    def __post_init__(self) -> None:
        self.checked()

    def checked(self) -> Debounced:
        """The same in seconds."""
        size = len(self.key.encode("utf-8", "replace"))
        if not 1 <= size <= _MAX_KEY or not storable(self.key):
            raise UsageError(
                f"a debounce key is a text of 1 to {_MAX_KEY} bytes without NUL, not {self.key!r}"
            )
        window = seconds_of(self.window, "a debounce window")
        if not window:
            raise UsageError(
                "a debounce window is longer than nothing: how long must it be quiet before it begins?"
            )
        most = None if self.max_wait is None else seconds_of(self.max_wait, "max_wait")
        if most is not None and most < window:
            raise UsageError(f"max_wait={self.max_wait!r} is shorter than window={self.window!r}")
        return Debounced(self.key, window, most)
