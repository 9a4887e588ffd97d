"""The part of sync.Client that talks with workflows: messages to them, events and streams from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from everstep.client import asynchronous
from everstep.store.infos import EventInfo

T = TypeVar("T")


class ClientMessages(ABC):
    """Talks with workflows; methods and errors are those of everstep.Client."""

    @property
    @abstractmethod
    def _async(self) -> asynchronous.Client: ...

    @abstractmethod
    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T: ...

    def send(
        self, workflow_id: str, message: Any, topic: str = "", *, key: str | None = None
    ) -> bool:
        """Send a message to a workflow. With `key`, a repeated send changes nothing.

        Returns False if it has finished, and so will never receive it. Raises UnknownWorkflowError.
        """
        return self._wait(self._async.send(workflow_id, message, topic, key=key))

    def get_event(
        self, workflow_id: str, key: str, *, timeout: timedelta | float | None = None
    ) -> Any:
        """The value a workflow publishes under a name, waiting for it at most `timeout` (seconds or timedelta).

        Raises TimeoutError, also once the workflow has finished without it, and UnknownWorkflowError.
        """
        return self._wait(self._async.get_event(workflow_id, key, timeout=timeout))

    def events(self, workflow_id: str) -> Sequence[EventInfo]:
        """All that a workflow has published so far, by name. Raises UnknownWorkflowError."""
        return self._wait(self._async.events(workflow_id))

    def read_stream(self, workflow_id: str, key: str, *, follow: bool = True) -> Iterator[Any]:
        """The values of a workflow's stream, from its beginning, live until it ends.

        Without `follow`, those that are there now. Raises UnknownWorkflowError.
        """
        values = self._async.read_stream(workflow_id, key, follow=follow)
        with suppress(StopAsyncIteration):
            while True:
                yield self._wait(_next(values))


async def _next(values: Any) -> Any:
    return await anext(values)
