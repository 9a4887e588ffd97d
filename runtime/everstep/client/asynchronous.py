"""The client: start workflows, ask about them, wait for them, stop them. Needs a database, no worker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

from everstep.client.handle import Handle
from everstep.client.messages import ClientMessages
from everstep.client.starts import ClientStarts
from everstep.client.timetable import Timetable
from everstep.codec import Payload
from everstep.definitions import Workflow
from everstep.errors import Failure, UsageError
from everstep.store.connection import RowRejected
from everstep.store.hints import Channel
from everstep.store.infos import StepInfo, WorkflowInfo
from everstep.store.workflows import Filter
from everstep.texts import checked

A = TypeVar("A")
R = TypeVar("R")


class Client(ClientStarts, ClientMessages):
    """Speaks to the workflows of one schema in one database.

    Use `async with Client.connect(url) as client`. `max_payload` limits inputs, in bytes; `codec` is that of
    the App, if it has one.
    """

    @cached_property
    def schedules(self) -> Timetable:
        """Schedules: pause, resume, change, trigger, backfill."""
        return Timetable(
            self._ask_link,
            self._schema,
            self.encoding,
            started=lambda: self._notifier.hint(Channel.READY),
        )

    def handle(self, workflow: Workflow[Any, R], id: str) -> Handle[R]:
        """A handle of a workflow started earlier, or elsewhere."""
        return Handle(self, checked(id, "a workflow id"), workflow.result, created=False)

    def handle_named(self, id: str) -> Handle[Any]:
        """A handle of a workflow whose code is not here; its result comes as JSON values."""
        payload: Payload[Any] = Payload(Any, f"result of workflow {id}")
        return Handle(self, checked(id, "a workflow id"), payload, created=False)

    async def get(self, workflow_id: str) -> WorkflowInfo | None:
        """A workflow with its payloads, or None if there is none with this id."""
        checked(workflow_id, "a workflow id")
        return await self._ask_link.retry(
            lambda c: self._workflows.describe(c, workflow_id, self.encoding)
        )

    async def list(
        self, chosen: Filter | None = None, *, limit: int = 100
    ) -> Sequence[WorkflowInfo]:
        """Workflows, newest first, without payloads."""
        asked = chosen or Filter()
        try:
            return await self._list_link.retry(
                lambda c: self._workflows.list_workflows(c, asked, limit, self.encoding)
            )
        except RowRejected as error:
            raise UsageError(f"no workflow can be what {asked} asks for: {error}") from None

    async def steps(self, workflow_id: str, *, limit: int = 10_000) -> Sequence[StepInfo]:
        """A workflow's recorded steps, in order. Raises UnknownWorkflowError if it does not exist."""
        checked(workflow_id, "a workflow id")
        found = await self._ask_link.retry(
            lambda c: self._workflows.list_steps(c, workflow_id, limit, self.encoding)
        )
        if not found:
            await self.check_known(workflow_id)
        return found

    async def cancel(self, workflow_id: str, *, children: bool = True) -> bool:
        """Cancel a workflow and its open descendants: at once if not running, else within a second or so.

        A running async step gets CancelledError, and nothing of it is recorded; a plain one ends first.

        Returns False if it had finished already. Raises UnknownWorkflowError if it does not exist.
        """
        checked(workflow_id, "a workflow id")
        error = Failure("everstep.Cancelled", "the workflow was cancelled").encode()
        ids = [workflow_id]
        if children:
            ids += await self._ask_link.retry(lambda c: self._workflows.descendants(c, workflow_id))
        done = await self._lock_link.retry(lambda c: self._workflows.cancel(c, ids, error))
        if done.wakes:
            await self._lock_link.retry(lambda c: self._messages.wake(c, sorted(done.wakes)))
            self._notifier.hint(Channel.READY)
        if done.cancelled:
            self._notifier.hint(Channel.DONE)
        if workflow_id in {*done.cancelled, *done.cancelling}:
            return True
        await self.check_known(workflow_id)
        return False
