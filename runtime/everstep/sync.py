"""The public names without `await`: for plain programs (`sync.Client`) and for plain workflows (`sync.sleep`).

Waiting is the only difference: what a plain workflow calls runs on its worker's event loop, while the
workflow's thread waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from everstep.blocking import Client, Handle, wait_on
from everstep.context import branch_here, current_branch
from everstep.definitions import PlainStep, as_step
from everstep.durable import begin_sleep
from everstep.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = ["Client", "Handle", "run", "sleep"]


def sleep(duration: timedelta | float) -> None:
    """Wait, durably, in a plain workflow. Longer than a moment, it leaves its thread and its worker meanwhile.

    The same as everstep.sleep: counted from when the database first recorded it, never early. The workflow
    is left by an exception that is no Exception; do not catch BaseException around it.
    """
    branch = branch_here("sync.sleep()")
    if not branch.execution.plain:
        raise UsageError(
            "sync.sleep() would block this async workflow. Write `await everstep.sleep(…)`"
        )
    wait_on(branch.execution.loop, begin_sleep(branch, duration))


@overload
def run(step: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
def run(step: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a step of either colour from a plain workflow; an async one runs on the worker's event loop."""
    step = as_step(step)
    if isinstance(step, PlainStep):
        return step(*args, **kwargs)
    branch = current_branch.get()
    if branch is None:
        return _new_loop(step.function(*args, **kwargs))
    return wait_on(branch.execution.loop, step.from_thread(*args, **kwargs))


def _new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    if _loop_runs_here():
        coroutine.close()
        raise UsageError("this would block the event loop. Await the step itself")
    return asyncio.run(coroutine)


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
