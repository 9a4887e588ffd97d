"""How often a transaction is tried before its failure counts, and what passes by itself."""

from __future__ import annotations

import random
import time

import psycopg

from everstep.store.connection import Passing, translate, unreachable
from everstep.store.places import ended_itself

TRIES = 10
"""Attempts at a transaction that fails for a passing reason, before the step's own retry policy decides."""

AWAY_SECONDS = 60.0
"""So long may its database be away before the same happens."""

_FORBIDDEN = "forbidden within a Transaction context"
"""What psycopg says to a commit or rollback by the function; it has no class for it."""


class Tries:
    """The attempts at one transaction so far."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._failed = 0
        self._away_since: float | None = None

    @property
    def again(self) -> bool:
        """Whether an attempt has gone before, which may have been committed."""
        return self._failed > 0

    def failed(self, error: Exception) -> None:
        """An attempt ended with an error. Raises it unless it passes by itself."""
        self._failed += 1
        if self._failed >= TRIES or not is_passing(error):
            if _FORBIDDEN in str(error):
                raise ended_itself(self._name) from error
            raise error

    def away(self, error: psycopg.OperationalError) -> None:
        """The database cannot be reached. Raises DatabaseUnreachableError when that has lasted too long."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since >= AWAY_SECONDS:
            raise unreachable(self._url, error) from None

    def pause(self) -> float:
        """Seconds until the next attempt."""
        most = 1.0 if self._away_since else min(0.02 * 2**self._failed, 2.0)
        return random.uniform(0.2, 1.0) * most  # noqa: S311


def is_passing(error: Exception) -> bool:
    """Whether a transaction that failed so may be tried again as it is."""
    found = getattr(error, "orig", error)  # SQLAlchemy wraps the driver's
    return isinstance(found, psycopg.Error) and isinstance(translate(found), Passing)
