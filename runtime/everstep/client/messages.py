"""The part of a client that talks with workflows: messages to them, events and streams from them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from everstep.client.base import ClientBase
from everstep.codec import encode_plain
from everstep.durations import patience_of
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.store.hints import Channel
from everstep.store.infos import EventInfo
from everstep.texts import brief, checked, storable


class ClientMessages(ClientBase):
    """Talks with workflows."""

    async def send(
        self, workflow_id: str, message: Any, topic: str = "", *, key: str | None = None
    ) -> bool:
        """Send a message to a workflow. With `key`, a repeated send changes nothing.

        Returns False if it has finished, and so will never receive it. Raises UnknownWorkflowError.
        """
        checked(workflow_id, "a workflow id")
        checked(topic, "a topic")
        if key is not None and not (isinstance(key, str) and storable(key)):
            raise UsageError(f"a key is a text without NUL, not {brief(key)}")
        body = encode_plain(message, f"message of topic {topic!r}", self._max_payload)
        open_ = await self._sender.put(self._messages.letter(workflow_id, topic, body, key))
        if open_ is None:
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        if open_:
            self._notifier.hint(Channel.READY)
        return open_

    async def read_stream(
        self, workflow_id: str, key: str, *, follow: bool = True
    ) -> AsyncIterator[Any]:
        """The values of a workflow's stream, from its beginning, live until it ends.

        Without `follow`, those that are there now. Raises UnknownWorkflowError.
        """
        after, pause = 0, 0.01
        while True:
            found = await self._ask_link.retry(
                lambda c, after=after: self._messages.read_stream(c, workflow_id, key, after)  # type: ignore[misc]
            )
            if found is None:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            values, finished = found
            for n, body in values:
                if body is None:
                    return
                after = n
                yield msgspec.json.decode(body)
            if values:
                pause = 0.01
            elif finished or not follow:
                return
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)

    async def events(self, workflow_id: str) -> Sequence[EventInfo]:
        """All that a workflow has published so far, by name. Raises UnknownWorkflowError."""
        found = await self._ask_link.retry(lambda c: self._messages.events(c, workflow_id))
        if found is None:
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
        return found

    async def get_event(
        self,
        workflow_id: str,
        key: str,
        *,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109
    ) -> Any:
        """The value a workflow publishes under a name, waiting for it at most `timeout` (seconds or timedelta).

        Raises TimeoutError, also once the workflow has finished without it, and UnknownWorkflowError.
        """
        patience, pause = patience_of(timeout), 0.01
        ends = math.inf if patience is None else time.monotonic() + patience
        while True:
            seen = await self._ask_link.retry(lambda c: self._messages.event(c, workflow_id, key))
            if not seen.known:
                raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")
            if seen.body is not None:
                return msgspec.json.decode(seen.body)
            if seen.finished or time.monotonic() >= ends:
                raise TimeoutError(f"{workflow_id!r} published no event {key!r}")
            await asyncio.sleep(min(pause, max(ends - time.monotonic(), 0)))
            pause = min(pause * 2, 1.0)
