"""What every part of a client stands on: its links to the database, and its life from open to close."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self, TypeVar, cast

from msgspec import structs

from everstep.client.handle import Handle
from everstep.client.outcomes import Outcomes
from everstep.client.sender import Sender
from everstep.client.starter import Here, Starter
from everstep.codec import MAX_PAYLOAD, Payload
from everstep.encoding import Codec, Encoding
from everstep.errors import UnknownWorkflowError, UsageError
from everstep.migrations.known import newest_known
from everstep.settings import checked_schema
from everstep.store.checks import check_schema
from everstep.store.connection import Link
from everstep.store.hints import Channel, Ear, Notifier
from everstep.store.messages import Messages
from everstep.store.models import Start, Started
from everstep.store.runs import CLAIM_TIMEOUT_SECONDS
from everstep.store.workflows import Workflows

if TYPE_CHECKING:
    from everstep.client.asynchronous import Client

R = TypeVar("R")


class ClientBase:
    """Links, batches and pollers of one client; `max_payload` limits inputs, in bytes; `codec` as the App's."""

    def __init__(
        self,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        codec: Codec | None = None,
        listen: bool = True,
    ) -> None:
        checked_schema(schema)
        self._max_payload = max_payload
        self.encoding = Encoding(codec)
        # Starts may claim as well, so they are under the time limit of claims.
        self._start_link = Link(url, "everstep client", CLAIM_TIMEOUT_SECONDS, by_index=True)
        self._ask_link = Link(url, "everstep client", by_index=True)
        # A list reads whole tables. Opened by the first.
        self._list_link = Link(url, "everstep client")
        # For what waits for locks: whoever holds one may need an answer of this client before letting go.
        self._lock_link = Link(url, "everstep client", by_index=True)
        self._links = (self._start_link, self._ask_link, self._list_link, self._lock_link)
        self._notify_link = Link(url, "everstep notify")
        self._workflows = Workflows(schema)
        self._messages = Messages(schema, self.encoding)
        self._schema = schema
        self.outcomes = Outcomes(self._ask_link, self._workflows)
        self._notifier = Notifier(self._notify_link, schema)
        self._starter = Starter(
            self._start_link, self._workflows, self.encoding, started=self._after_start
        )
        self._sender = Sender(self._ask_link, self._messages)
        self._ear = Ear(url, schema, {Channel.DONE: self.outcomes.hint}) if listen else None
        self._here: Here | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._refuse(
            UsageError("this client is not open: `async with Client.connect(url) as client:`")
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        url: str,
        schema: str = "everstep",
        *,
        max_payload: int = MAX_PAYLOAD,
        codec: Codec | None = None,
        listen: bool = True,
    ) -> AsyncIterator[Self]:
        """A client for the time of an `async with`.

        Raises DatabaseUnreachableError, SchemaError or UsageError at once rather than at the first call.
        """
        client = cls(url, schema, max_payload=max_payload, codec=codec, listen=listen)
        await client.open()
        try:
            yield client
        finally:
            await client.close()

    async def open(self) -> None:
        """Check the database and begin. `connect` does this."""
        self._refuse(None)
        try:
            await self._ask_link.first(lambda c: check_schema(c, self._schema, newest_known()))
        except BaseException:
            await self.close()
            raise
        parts = (self._starter, self._sender, self.outcomes, self._notifier)
        loops = [part.run() for part in parts]
        if self._ear is not None:
            loops.append(self._ear.run())
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def close(self) -> None:
        """End its connections. Whoever still waits for something of it gets a UsageError."""
        # To its end, also when who asks for it is cancelled: else loops and connections would stay.
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        try:
            await self._notifier.finish()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._refuse(UsageError("this client is closed: use it inside its `async with` block"))
            for link in (*self._links, self._notify_link):
                await link.close()

    def _refuse(self, error: Exception | None) -> None:
        """From now on every call raises this: nobody would answer it. None: they are answered."""
        groups = (self._starter, self._sender)
        for part in (*groups, self.outcomes, *self._links):
            part.refuse(error)

    async def check_known(self, workflow_id: str) -> None:
        """Raises UnknownWorkflowError if there is no such workflow."""
        if not await self._ask_link.retry(lambda c: self._workflows.known_ids(c, [workflow_id])):
            raise UnknownWorkflowError(f"there is no workflow with id {workflow_id!r}")

    def run_here(self, here: Here | None) -> None:
        """Claim in the starting statement what a worker of this process may run (None: no longer)."""
        self._here = here

    def _after_start(self, starts: list[Start], reply: Started) -> None:
        if reply.claimed and self._here is not None:
            claimed = [s for s in starts if s.id in reply.claimed]
            if limits := reply.deadlines:
                claimed = [structs.replace(s, deadline=limits.get(s.id)) for s in claimed]
            self._here.begin(claimed)
        if len(reply.claimed) + len(reply.existing) < len(starts):
            self._notifier.hint(Channel.READY)
            if self._here is not None:
                self._here.hint()

    def _handle_of(self, workflow_id: str, payload: Payload[R], *, created: bool) -> Handle[R]:
        return Handle(cast("Client", self), workflow_id, payload, created=created)
