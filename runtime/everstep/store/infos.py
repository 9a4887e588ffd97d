"""What the store tells people of workflows, events and steps: the answers of clients, commands and handles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Where a workflow stands; the words of the view everstep.workflows."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead_letter"

    @property
    def finished(self) -> bool:
        return self in _FINISHED


_FINISHED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.DEAD_LETTER)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Stands for a payload that cannot be shown here: a codec made it, which this client was not given.

    `problem`: why it cannot be shown although the codec is there, such as another key.
    """

    encoded_with_codec: int
    problem: str | None = None

    def __str__(self) -> str:
        told = f"encoded with codec {self.encoded_with_codec}"
        return told if self.problem is None else f"{told}: {self.problem}"


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as the view everstep.workflows shows it. Payloads as JSON values, None in lists.

    What a codec has made is shown by a client that has it; without, `input` and `output` are Encoded, and
    `error_message` says so.
    """

    id: str
    name: str
    status: Status
    queue: str
    version: str | None
    parent_id: str | None
    attributes: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    priority: int | None
    wake_at: datetime | None
    waits_for: str | None
    crashes: int | None
    input: Any
    output: Any
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    generation: int | None


@dataclass(frozen=True, slots=True)
class EventInfo:
    """What a workflow publishes under a name; Encoded where this client lacks the codec."""

    key: str
    value: Any
    set_at: datetime


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step as the view everstep.steps shows it; its payload as that of WorkflowInfo."""

    workflow_id: str
    branch: str
    seq: int
    name: str
    kind: str
    status: str
    attempts: int
    duration: timedelta
    recorded_at: datetime
    output: Any
    error_type: str | None
    error_message: str | None
    generation: int
