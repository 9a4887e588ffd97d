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
class WorkflowInfo:
    """A workflow as the view everstep.workflows shows it. Payloads as JSON values, None in lists."""

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
    """What a workflow publishes under a name; None where the value is no JSON."""

    key: str
    value: Any
    set_at: datetime


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step as the view everstep.steps shows it."""

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
