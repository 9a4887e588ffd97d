"""When a failed step is tried again, and after how long: a pure decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A step's retry policy.

    The wait before attempt n + 1 is `interval * backoff ** (n - 1)`, at most `max_interval`, of which up to
    the fraction `jitter` is taken away at random, so that many failing steps do not come back in step.
    Only errors in `retry_on` and not in `give_up_on` are tried again, and of these only those for which
    `retry_if(error)` is true; an error that it raises itself ends the step.
    """

    max_attempts: int = 3
    interval: timedelta = timedelta(seconds=1)
    backoff: float = 2.0
    max_interval: timedelta = timedelta(minutes=5)
    jitter: float = 0.25
    retry_on: tuple[type[Exception], ...] = (Exception,)
    give_up_on: tuple[type[Exception], ...] = ()
    retry_if: Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(
                f"max_attempts counts the first one too: at least 1, not {self.max_attempts}"
            )
        if self.backoff < 1 or not 0 <= self.jitter <= 1 or self.interval < timedelta(0):
            raise ValueError("backoff is at least 1, jitter between 0 and 1, interval not negative")

    def delay_after(self, attempt: int, error: Exception, chance: float) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1), or None to give up.

        `chance` is a random number in [0, 1), given so that the decision is pure.
        """
        if attempt >= self.max_attempts or isinstance(error, self.give_up_on):
            return None
        if not isinstance(error, self.retry_on):
            return None
        if self.retry_if is not None and not self.retry_if(error):
            return None
        full = self.interval.total_seconds() * self._growth(attempt)
        return min(full, self.max_interval.total_seconds()) * (1 - self.jitter * chance)

    def _growth(self, attempt: int) -> float:
        try:
            return self.backoff ** (attempt - 1)
        except OverflowError:
            return _BEYOND_ANY_INTERVAL


_BEYOND_ANY_INTERVAL = 1e100

NO_RETRY = Retry(max_attempts=1)
