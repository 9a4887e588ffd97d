"""The public names without `await`: for plain programs (`sync.Client`) and for plain workflows (the others).

Waiting is the only difference: what a plain workflow calls runs on its worker's event loop, while the
workflow's thread waits for it. A workflow that parks or is stopped is left by an exception that is no Exception;
do not catch BaseException around these calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload
from uuid import UUID

from everstep.branch import current_branch
from everstep.client.blocking import Client
from everstep.client.blocking_handle import Handle
from everstep.definitions import PlainStep, Workflow, as_step
from everstep.durable import calls as durable
from everstep.durable import talking, together, values
from everstep.durable.endless import continue_as_new
from everstep.durable.plain import outside_of_workflows, plain_branch, waited
from everstep.durable.team import Team, in_order_of_end
from everstep.durable.values import deprecate_patch, patched
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
    """Wait, durably. Anything longer than a moment parks: the workflow leaves the worker and costs a row.

    `duration` in seconds or as a timedelta, counted from when the database first recorded the sleep: a
    crash does not begin it anew. Never early; late by up to about a second, when it had to be claimed again.
    """
    waited(durable.sleep, duration)


def sleep_until(instant: datetime) -> None:
    """Wait, durably, until an instant by the database's clock; one that has passed is no wait.

    The instant is recorded: a replay waits for the same one, whatever the code computes then.
    """
    waited(durable.sleep_until, instant)


@overload
def recv(topic: str = "", *, timeout: timedelta | float | None = None) -> Any: ...
@overload
def recv(topic: str = "", *, timeout: timedelta | float | None = None, as_type: type[T]) -> T: ...
def recv(topic: str = "", *, timeout: timedelta | float | None = None, as_type: Any = Any) -> Any:
    """The next message of a topic, in the order they were sent; each is received once.

    Waits parked. Raises TimeoutError after `timeout` (seconds or timedelta), counted from when the wait was
    first recorded. `as_type` rebuilds the message as a dataclass, pydantic model, …
    """
    return waited(talking.recv, topic, timeout=timeout, as_type=as_type)


def send(workflow_id: str, message: Any, topic: str = "") -> None:
    """Send a message to another workflow, exactly once. To one that has finished it is dropped.

    Raises UnknownWorkflowError if there is no such workflow.
    """
    waited(talking.send, workflow_id, message, topic)


def set_event(key: str, value: Any) -> None:
    """Publish a value under a name. The latest wins; it can be read during the workflow and ever after."""
    waited(talking.set_event, key, value)


def get_event(workflow_id: str, key: str, *, timeout: timedelta | float | None = None) -> Any:
    """The value another workflow publishes under a name, waiting for it if need be.

    Raises TimeoutError after `timeout`, or once the workflow has finished without publishing it, and
    UnknownWorkflowError. What was read is recorded: a replay sees the same value.
    """
    return waited(talking.get_event, workflow_id, key, timeout=timeout)


def write_stream(key: str, value: Any) -> None:
    """Append a value to a stream of this workflow, exactly once; readers see it as soon as it is durable."""
    waited(talking.write_stream, key, value)


def close_stream(key: str) -> None:
    """End a stream; without this it ends with its workflow. No reader comes to what is written to it afterwards."""
    waited(talking.close_stream, key)


def now() -> datetime:
    """The database's time when this was first reached; in UTC."""
    return waited(values.now)


def uuid() -> UUID:
    """A random UUID, the same on every replay."""
    return waited(values.uuid)


def random() -> float:
    """A random number from 0 up to 1, the same on every replay."""
    return waited(values.random)


class ChildHandle(Generic[R]):
    """A child that was started in the background."""

    def __init__(self, inner: durable.ChildHandle[R]) -> None:
        self.id = inner.id
        self._inner = inner

    def result(self) -> R:
        """Its result, waited for parked. Raises WorkflowError and the like, as it ended."""
        return waited(self._inner.result)


def start(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R]:
    """Start a child in the background, from inside a workflow; its id follows from where it was started."""
    return ChildHandle(waited(durable.start, workflow, *args, **kwargs))


def wait_first(handles: Sequence[ChildHandle[R] | Handle[R]]) -> ChildHandle[R] | Handle[R]:
    """The first of some workflows to finish, however it ended; a replay gives the same one."""
    inner: list[Any] = [getattr(handle, "_inner", handle) for handle in handles]
    first = waited(together.wait_first, inner)
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
        branch = plain_branch("run")
        return on_loop(branch.execution, step.call_in(branch, args, kwargs))
    step = as_step(step)
    if isinstance(step, PlainStep):
        return step(*args, **kwargs)
    if current_branch.get() is None:
        return outside_of_workflows(step.function(*args, **kwargs))
    branch = plain_branch("run")
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
    return Team(plain_branch("gather"), calls).results()


def as_completed(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results in the order in which the calls ended, the first time; a replay gives them in the same order."""
    branch, listed = plain_branch("as_completed"), list(calls)
    return in_order_of_end(branch, Team(branch, listed), len(listed))
