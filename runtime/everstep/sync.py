"""The public names without `await`: for plain programs (`sync.Client`) and for plain workflows (the others).

Waiting is the only difference: what a plain workflow calls runs on its worker's event loop, while the
workflow's thread waits for it. A workflow that parks or is stopped is left by an exception that is no Exception;
do not catch BaseException around these calls.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload
from uuid import UUID

from everstep.client.blocking import Client, Handle
from everstep.context import Branch, branch_here, current_branch
from everstep.definitions import PlainStep, Workflow, as_step
from everstep.durable import calls as durable
from everstep.durable import talking, together, values
from everstep.durable.endless import continue_as_new
from everstep.durable.team import Team, in_order_of_end
from everstep.durable.values import deprecate_patch, patched
from everstep.errors import UsageError
from everstep.portal import on_loop

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")

__all__ = [
    "ChildHandle",
    "Client",
    "Handle",
    "as_completed",
    "call",
    "close_stream",
    "continue_as_new",
    "deprecate_patch",
    "gather",
    "get_event",
    "now",
    "patched",
    "random",
    "recv",
    "run",
    "send",
    "set_event",
    "sleep",
    "sleep_until",
    "start",
    "uuid",
    "wait_first",
    "write_stream",
]


def sleep(duration: timedelta | float) -> None:
    """As everstep.sleep. Longer than a moment, the workflow leaves its thread and its worker meanwhile."""
    _await(durable.sleep, duration)


def sleep_until(instant: datetime) -> None:
    """As everstep.sleep_until."""
    _await(durable.sleep_until, instant)


@overload
def recv(topic: str = "", *, timeout: timedelta | float | None = None) -> Any: ...
@overload
def recv(topic: str = "", *, timeout: timedelta | float | None = None, as_type: type[T]) -> T: ...
def recv(topic: str = "", *, timeout: timedelta | float | None = None, as_type: Any = Any) -> Any:
    """As everstep.recv."""
    return _await(talking.recv, topic, timeout=timeout, as_type=as_type)


def send(workflow_id: str, message: Any, topic: str = "") -> None:
    """As everstep.send."""
    _await(talking.send, workflow_id, message, topic)


def set_event(key: str, value: Any) -> None:
    """As everstep.set_event."""
    _await(talking.set_event, key, value)


def get_event(workflow_id: str, key: str, *, timeout: timedelta | float | None = None) -> Any:
    """As everstep.get_event."""
    return _await(talking.get_event, workflow_id, key, timeout=timeout)


def write_stream(key: str, value: Any) -> None:
    """As everstep.write_stream."""
    _await(talking.write_stream, key, value)


def close_stream(key: str) -> None:
    """As everstep.close_stream."""
    _await(talking.close_stream, key)


def now() -> datetime:
    """As everstep.now."""
    return _await(values.now)


def uuid() -> UUID:
    """As everstep.uuid."""
    return _await(values.uuid)


def random() -> float:
    """As everstep.random."""
    return _await(values.random)


class ChildHandle(Generic[R]):
    """A child that was started in the background."""

    def __init__(self, inner: durable.ChildHandle[R]) -> None:
        self.id = inner.id
        self._inner = inner

    def result(self) -> R:
        """Its result, waited for parked. Raises WorkflowError and the like, as it ended."""
        return _await(self._inner.result)


def start(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R]:
    """Start a child in the background; its id follows from where it was started."""
    return ChildHandle(_await(durable.start, workflow, *args, **kwargs))


def wait_first(handles: Sequence[ChildHandle[R] | Handle[R]]) -> ChildHandle[R] | Handle[R]:
    """As everstep.wait_first."""
    first = _await(together.wait_first, [handle._inner for handle in handles])  # noqa: SLF001
    return next(handle for handle in handles if handle.id == first.id)


@overload
def run(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(step: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
def run(step: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a step or a child workflow of either colour from a plain workflow.

    An async step runs on the worker's event loop. Any function will do: one that is not decorated is recorded as a
    step under its qualified name.
    """
    if isinstance(step, Workflow):
        branch = _branch("run")
        return on_loop(branch.execution, step.call_in(branch, args, kwargs))
    step = as_step(step)
    if isinstance(step, PlainStep):
        return step(*args, **kwargs)
    if current_branch.get() is None:
        return _new_loop(step.function(*args, **kwargs))
    branch = _branch("run")
    return on_loop(branch.execution, step.from_thread(*args, **kwargs))


@overload
def call(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]: ...
@overload
def call(
    step: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Callable[[], R]: ...
@overload
def call(step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]: ...
def call(step: Any, /, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """A call for gather() or as_completed(), made when its turn comes: `sync.call(charge, order)`.

    Takes what run() takes. A `lambda` or `functools.partial` of several calls will do as well.
    """
    return functools.partial(run, step, *args, **kwargs)


@overload
def gather(a: Callable[[], A], b: Callable[[], B], /) -> tuple[A, B]: ...
@overload
def gather(a: Callable[[], A], b: Callable[[], B], c: Callable[[], C], /) -> tuple[A, B, C]: ...
@overload
def gather(
    a: Callable[[], A], b: Callable[[], B], c: Callable[[], C], d: Callable[[], D], /
) -> tuple[A, B, C, D]: ...
@overload
def gather(
    a: Callable[[], A],
    b: Callable[[], B],
    c: Callable[[], C],
    d: Callable[[], D],
    e: Callable[[], E],
    /,
) -> tuple[A, B, C, D, E]: ...
@overload
def gather(*calls: Callable[[], T]) -> tuple[T, ...]: ...
def gather(*calls: Callable[[], Any]) -> tuple[Any, ...]:
    """Calls made at the same time, a thread each; their results in the order of the calls.

    Each call is a numbered branch, as a task is in an async workflow. All are waited for; then, if any failed, the
    error of the first of those in the order of the calls is raised, on every replay the same. A workflow whose calls
    all wait parks.
    """
    return Team(_branch("gather"), calls).results()


def as_completed(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results in the order in which the calls ended, the first time; a replay gives them in the same order."""
    branch, listed = _branch("as_completed"), list(calls)
    return in_order_of_end(branch, Team(branch, listed), len(listed))


_INSTEAD = {
    "gather": "await asyncio.gather(…)",
    "as_completed": "async for … in everstep.as_completed(…)",
    "result": "await handle.result()",
}


def _await(begin: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Let the async function of the same name take its positions here, and wait for its coroutine."""
    branch = _branch(begin.__name__)
    branch.crossing = True
    try:
        coroutine = begin(*args, **kwargs)
    finally:
        branch.crossing = False
    return on_loop(branch.execution, coroutine)


def _branch(name: str) -> Branch:
    branch = branch_here(f"sync.{name}()")
    if not branch.execution.plain:
        instead = _INSTEAD.get(name, f"await everstep.{name}(…)")
        raise UsageError(f"sync.{name}() would block this async workflow. Write `{instead}`")
    return branch


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
