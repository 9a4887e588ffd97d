"""What the decorators of an App return: workflow functions and steps, callable and typed as written."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from everstep.branch import Branch, current_branch
from everstep.codec import Arguments, Payload, as_written, result_payload
from everstep.durable.children import call_child
from everstep.durable.flows import step_flow
from everstep.durable.marked import once_flow
from everstep.durable.performing import perform, perform_in_thread
from everstep.errors import UsageError
from everstep.portal import on_loop
from everstep.retry import Retry, checked_retry
from everstep.texts import chosen_name

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_QUEUE = "default"


class Workflow(Generic[P, R]):
    """A workflow function of either colour, registered by name.

    `P` are its parameters and `R` its result: `client.start(workflow, …)` is checked against them.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, queue: str) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name
        self.queue = queue
        self.is_async = inspect.iscoroutinefunction(function)

    @functools.cached_property
    def arguments(self) -> Arguments:
        return Arguments(self.function, f"workflow {self.name}")

    @functools.cached_property
    def result(self) -> Payload[R]:
        return result_payload(self.function, f"result of workflow {self.name}")

    def signature(self, *args: P.args, **kwargs: P.kwargs) -> R:  # noqa: ARG002
        """For type checkers only: what the workflow takes and gives, whatever its colour."""
        raise UsageError("signature() is for type checkers")

    def call_in(
        self, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[object, None, R]:
        """Run as a child of a branch's workflow, and wait for the result. Takes its positions now."""
        positions = branch.next_position(), branch.next_position()
        return call_child(branch, self, args, kwargs, positions)

    def _parent(self) -> Branch:
        """The branch this workflow is called in as a child. Raises UsageError where there is none."""
        branch = current_branch.get()
        name = self.__name__  # type: ignore[attr-defined]
        if branch is None:
            raise UsageError(
                f"{self.name} is a workflow: start it with `await client.start({name}, …)`, "
                f"or call its plain function as {name}.function(…) in a unit test"
            )
        if branch.execution.plain is self.is_async:
            mine, call = "plain", f"await everstep.run({name}, …)"
            if self.is_async:
                mine, call = "async", f"everstep.sync.run({name}, …)"
            raise UsageError(
                f"{self.name} is {mine} and the workflow that calls it is not: `{call}`"
            )
        return branch

    def __repr__(self) -> str:
        return f"<workflow {self.name} on queue {self.queue}>"


class AsyncWorkflow(Workflow[P, R]):
    """A workflow written as `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """In an async workflow: run as a child and wait for its result. Elsewhere a UsageError."""
        return self.call_in(self._parent(), args, kwargs)


class PlainWorkflow(Workflow[P, R]):
    """A workflow written as `def`; it runs in threads."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """In a plain workflow: run as a child and wait for its result. Elsewhere a UsageError."""
        branch = self._parent()
        return on_loop(branch.execution, self.call_in(branch, args, kwargs))


class _Step(Generic[P, R]):
    """What steps of both colours share."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        retry: Retry | None,
        timeout: timedelta | None,
        at_most_once: bool = False,
    ) -> None:
        functools.update_wrapper(cast(Any, self), function)
        self.function = function
        self.name = name
        self.retry = checked_retry(retry, f"step {name}")
        self.timeout = None if timeout is None else _limit(timeout, name)
        self.at_most_once = at_most_once
        if at_most_once and self.retry.max_attempts > 1:
            raise UsageError(
                f"step {name}: at_most_once=True and a retry policy contradict each other"
            )
        if timeout is not None and not inspect.iscoroutinefunction(function):
            raise UsageError(
                f"step {name}: a plain function cannot be stopped, so it takes no timeout=; write it "
                f"as `async def`, or give the call inside it a timeout"
            )

    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: timedelta | None = None,
        at_most_once: bool | None = None,
    ) -> Self:
        """The same step with other options, for one call: `await charge.options(retry=…)(order)`."""
        return type(self)(
            self.function,
            name=self.name if name is None else chosen_name(name, "step"),
            retry=retry or self.retry,
            timeout=self._same_limit() if timeout is None else timeout,
            at_most_once=self.at_most_once if at_most_once is None else at_most_once,
        )

    def _same_limit(self) -> timedelta | None:
        return None if self.timeout is None else timedelta(seconds=self.timeout)

    @functools.cached_property
    def result(self) -> Payload[R]:
        return result_payload(self.function, f"result of step {self.name}")

    def _flow(self, branch: Branch) -> Any:
        if self.at_most_once:
            mark, position = branch.next_position(), branch.next_position()
            return once_flow(branch.execution, mark, position, self.name, self.result)
        return step_flow(
            branch.execution, branch.next_position(), self.name, self.result, self.retry
        )

    def __repr__(self) -> str:
        return f"<step {self.name}>"


class Step(_Step[P, R]):
    """A step written as `async def`. Called in a workflow its outcome is recorded; elsewhere it just runs."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        branch = current_branch.get()
        if branch is None:
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        if branch.execution.plain:
            raise UsageError(
                f"{self.name} is an async step and this workflow is a plain function: call it as "
                f"`everstep.sync.run({self.__name__}, …)`, or write the workflow as `async def`"  # type: ignore[attr-defined]
            )
        # The position is taken here, where the step is called, and not when it is first awaited.
        return perform(self._flow(branch), branch.execution, lambda _: self._call(args, kwargs))

    def from_thread(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """The step as a coroutine for the worker's event loop, called from a plain workflow's thread.

        What `everstep.sync.run` calls. The position is taken here, in the thread.
        """
        branch = current_branch.get()
        if branch is None or not branch.execution.plain:
            raise UsageError(f"sync.run({self.name}, …) works inside a plain workflow")
        return perform(self._flow(branch), branch.execution, lambda _: self._call(args, kwargs))

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.timeout is None:
            return await self.function(*args, **kwargs)
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self.function(*args, **kwargs)
        except TimeoutError as error:
            if not limit.expired():
                raise
            # asyncio's says nothing; its cause says where the function was.
            what = f"step {self.name} took longer than its timeout of {self.timeout:g} s"
            raise TimeoutError(what) from error.__cause__


class PlainStep(_Step[P, R]):
    """A step written as `def`. In a plain workflow it is called; in an async one it goes through `run`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        branch = current_branch.get()
        if branch is None:
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        if not branch.execution.plain:
            raise UsageError(
                f"{self.name} is a plain function and would block this async workflow: call it as "
                f"`await everstep.run({self.__name__}, …)`, which runs it in a thread"  # type: ignore[attr-defined]
            )
        call = functools.partial(self.function, *args, **kwargs)
        return perform_in_thread(self._flow(branch), branch.execution, lambda _: call())  # type: ignore[no-any-return]

    def in_thread(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        """The step as a coroutine, its function in a thread; what `everstep.run` calls."""
        branch = current_branch.get()
        if branch is None or branch.execution.plain:
            raise UsageError(f"everstep.run({self.name}, …) works inside an async workflow")
        return perform(
            self._flow(branch),
            branch.execution,
            lambda _: asyncio.to_thread(self.function, *args, **kwargs),
        )


def _limit(timeout: timedelta, name: str) -> float:
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise UsageError(
            f"step {name}: timeout= is a timedelta longer than nothing, not {timeout!r}"
        )
    return timeout.total_seconds()


@functools.lru_cache(maxsize=1_000)
def as_step(function: Callable[..., Any]) -> Step[..., Any] | PlainStep[..., Any]:
    """A function as a step, decorated or not. Raises UsageError for what is neither."""
    if isinstance(function, (Step, PlainStep)):
        return function
    if isinstance(function, Workflow) or not callable(function):
        raise UsageError(f"run() takes a step or a function, not {function!r}")
    written = as_written(function)
    kind = Step if inspect.iscoroutinefunction(written) else PlainStep
    return kind(function, name=written.__qualname__, retry=None, timeout=None)
