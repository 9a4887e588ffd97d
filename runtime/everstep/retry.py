"""When a failed step is tried again, and after how long: a pure decision."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from everstep.errors import UsageError


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
        if not _is_number(self.max_attempts, int) or self.max_attempts < 1:
            raise UsageError(
                f"max_attempts counts the first one too: at least 1, not {self.max_attempts!r}"
            )
        for what in ("interval", "max_interval"):
            pause = getattr(self, what)
            if not isinstance(pause, timedelta) or pause < timedelta(0):
                raise UsageError(f"{what} is a timedelta, and not negative: not {pause!r}")
        if not _is_number(self.backoff, int, float) or not self.backoff >= 1:
            raise UsageError(f"backoff is a number of at least 1, not {self.backoff!r}")
        if not _is_number(self.jitter, int, float) or not 0 <= self.jitter <= 1:
            raise UsageError(f"jitter is a fraction between 0 and 1, not {self.jitter!r}")
        for what in ("retry_on", "give_up_on"):
            _check_errors(getattr(self, what), what)
        if self.retry_if is not None and not callable(self.retry_if):
            raise UsageError(f"retry_if takes a function of the error, not {self.retry_if!r}")
        if inspect.iscoroutinefunction(self.retry_if):
            raise UsageError("retry_if takes a plain function: write it without `async`")

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


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _check_errors(types: object, what: str) -> None:
    """As a wrong one would only show when a step has failed."""
    each = types if isinstance(types, tuple) else (types,)
    if not all(isinstance(error, type) and issubclass(error, Exception) for error in each):
        raise UsageError(f"{what} is a tuple of exception classes, not {types!r}")


_BEYOND_ANY_INTERVAL = 1e100

NO_RETRY = Retry(max_attempts=1)


def checked_retry(retry: Retry | None, of: str) -> Retry:
    """The policy of a step or transaction, by default none. Raises UsageError."""
    if retry is None:
        return NO_RETRY
    if not isinstance(retry, Retry):
        raise UsageError(f"{of}: retry= takes Retry(max_attempts=…), not {retry!r}")
    return retry
