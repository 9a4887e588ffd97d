"""How a plain workflow waits: its thread for a coroutine on the worker's event loop. What everstep.sync stands on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from everstep.branch import Branch
from everstep.context import branch_here
from everstep.errors import UsageError
from everstep.portal import on_loop

P = ParamSpec("P")
T = TypeVar("T")

_INSTEAD = {
    "gather": "await asyncio.gather(…)",
    "as_completed": "async for … in everstep.as_completed(…)",
    "result": "await handle.result()",
}


def waited(begin: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Let an async function of the language take its positions in this thread, and wait for its coroutine."""
    branch = plain_branch(begin.__name__)
    branch.crossing = True
    try:
        coroutine = begin(*args, **kwargs)
    finally:
        branch.crossing = False
    return on_loop(branch.execution, coroutine)


def plain_branch(name: str) -> Branch:
    """The branch of this thread, for a function of everstep.sync. Raises UsageError in an async workflow."""
    branch = branch_here(f"sync.{name}()")
    if not branch.execution.plain:
        instead = _INSTEAD.get(name, f"await everstep.{name}(…)")
        raise UsageError(f"sync.{name}() would block this async workflow. Write `{instead}`")
    return branch


def outside_of_workflows(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a step as an ordinary function. Raises UsageError where that would block an event loop."""
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
