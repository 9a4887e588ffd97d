"""asyncio's own time limits, used in a workflow, become recorded ones; elsewhere they stay as they are.

The one place where everstep changes another library: docs/decisions/asyncio-timeouts.md says why.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from everstep.branch import current_branch
from everstep.durable.limits import Timeout
from everstep.durable.timeouts import wait_for

_MARK = "_everstep_limit"


@functools.cache
def adopt_time_limits() -> None:
    """Once per process: `asyncio.timeout`, `timeout_at` and `wait_for` ask whether they are in a workflow."""
    kind: Any = asyncio.Timeout
    kind.__aenter__ = _entering(kind.__aenter__)
    kind.__aexit__ = _leaving(kind.__aexit__)
    if sys.version_info < (3, 12):
        # Before 3.12 wait_for has a timer of its own.
        asyncio.wait_for = asyncio.tasks.wait_for = _waiting(asyncio.wait_for)


def _entering(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    async def enter(self: Any) -> Any:
        branch, when = current_branch.get(), self.when()
        if branch is None or when is None:
            return await original(self)
        limit = Timeout(branch, max(when - asyncio.get_running_loop().time(), 0.0))
        setattr(self, _MARK, limit)
        await limit.__aenter__()
        return self

    return enter


def _leaving(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def leave(
        self: Any,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        limit: Timeout | None = getattr(self, _MARK, None)
        if limit is None:
            return await original(self, kind, error, trace)
        self.expired = limit.expired
        await limit.__aexit__(kind, error, trace)
        return None

    return leave


def _waiting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def waiting(fut: Any, timeout: float | None) -> Any:  # noqa: ASYNC109
        if current_branch.get() is None:
            return await original(fut, timeout)
        return await wait_for(fut, timeout)

    return waiting
