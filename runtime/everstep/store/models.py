"""Rows as values: what the store takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from msgspec import Struct

SUSPECT_CRASHES = 3
"""From so many crashes without progress on, a workflow runs alone; run.sql has the same number."""


class CheckpointKind(IntEnum):
    """What a recorded position in a workflow was; stored in checkpoint.kind."""

    STEP = 1
    SLEEP = 2
    TIMER = 3
    RECEIVE = 4
    SEND = 5
    PUBLISH = 6
    EVENT = 7
    CHILD = 8
    RESULT = 9
    VALUE = 10
    TRANSACTION = 11
    STARTED = 12
    STREAM = 13
    CONTINUE = 14


TALKING = frozenset(
    {
        CheckpointKind.RECEIVE,
        CheckpointKind.SEND,
        CheckpointKind.PUBLISH,
        CheckpointKind.STREAM,
    }
)
"""Checkpoints that do something besides being one, in tables of their own."""


class Ending(IntEnum):
    """How a workflow finished; stored in workflow.status."""

    SUCCEEDED = 1
    FAILED = 2
    CANCELLED = 3
    DEAD_LETTER = 4


@dataclass(frozen=True, slots=True)
class Debounced:
    """A start that a later one with the same key replaces: how long to wait for one, and at most; in seconds."""

    key: str
    window: float
    max_wait: float | None


class Start(Struct, frozen=True):
    """A workflow to be started. `delay` in seconds; `input` encoded with `codec`."""

    id: str
    name: str
    queue: str
    codec: int
    input: bytes
    priority: int = 1
    delay: float = 0.0
    attributes: dict[str, Any] | None = None
    run_at: datetime | None = None
    timeout: float | None = None
    deadline: datetime | None = None
    dedup: str | None = None
    version: str | None = None
    partition: str | None = None
    debounce: Debounced | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a batch of starts came to.

    `existing`: ids that were there already. `claimed`: ids this worker claimed at once. `duplicates`: ids not
    started because of their deduplication key, each with the workflow that holds it. `deadlines`: of what was
    claimed, where it has one.
    """

    existing: frozenset[str]
    claimed: frozenset[str]
    duplicates: dict[str, str]
    deadlines: dict[str, datetime]


@dataclass(frozen=True, slots=True)
class Look:
    """A queue and a priority to look for work in, from which `ready_at` on; None: from the beginning."""

    queue: str
    priority: int
    cursor: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue and a priority with something to claim; without a priority: workflows with a partition.

    `suspects`: some of it keeps crashing its workers. `limited`: workers have to agree on what they claim.
    """

    queue: str
    priority: int | None
    oldest: datetime | None = None
    suspects: bool = False
    limited: bool = False
    worker_concurrency: int | None = None


class Claimed(Struct, frozen=True):
    """A workflow this worker now owns at `epoch`."""

    id: str
    name: str
    epoch: int
    ready_at: datetime | None
    crashes: int
    codec: int
    input: bytes
    cancel: bool = False
    deadline: datetime | None = None
    queue: str = ""

    @property
    def suspect(self) -> bool:
        """Whether it crashed its worker so often that it runs alone."""
        return self.crashes >= SUSPECT_CRASHES


class Checkpoint(Struct, frozen=True):
    """A recorded outcome, keyed (workflow, branch, seq). Exactly one of output and error is set."""

    branch: str
    seq: int
    kind: int
    name: str
    attempts: int
    codec: int
    output: bytes | None
    error: bytes | None
    seconds: float = 0.0
    recorded_at: datetime | None = None
    target: str | None = None
    message: int | None = None


class Outcome(Struct, frozen=True):
    """How a workflow finished."""

    id: str
    name: str
    status: Ending
    codec: int
    output: bytes | None
    error: bytes | None


class Seen(Struct, frozen=True):
    """What a waiting workflow saw: `signals` is how often anything had happened to it in that snapshot.

    `known`: whether the other workflow exists. `finished`: whether nothing more can come. `body` None: nothing
    there yet. `n` names a message; `outcome` is that of a finished workflow.
    """

    signals: int
    known: bool = True
    finished: bool = False
    n: int | None = None
    codec: int = 1
    body: bytes | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of rows that a commit did not take."""

    id: str
    epoch: int
    owner: bool
    finished: bool
    mine: frozenset[tuple[str, int]]


@dataclass(slots=True)
class CommitBatch:
    """Rows of one group commit, column by column as the statement takes them."""

    c_id: list[str] = field(default_factory=list)
    c_epoch: list[int] = field(default_factory=list)
    c_branch: list[str] = field(default_factory=list)
    c_seq: list[int] = field(default_factory=list)
    c_kind: list[int] = field(default_factory=list)
    c_name: list[str] = field(default_factory=list)
    c_attempts: list[int] = field(default_factory=list)
    c_codec: list[int] = field(default_factory=list)
    c_output: list[bytes | None] = field(default_factory=list)
    c_error: list[bytes | None] = field(default_factory=list)
    c_seconds: list[float] = field(default_factory=list)
    c_target: list[str | None] = field(default_factory=list)
    c_message: list[int | None] = field(default_factory=list)
    s_parent: list[str] = field(default_factory=list)
    s_epoch: list[int] = field(default_factory=list)
    s_id: list[str] = field(default_factory=list)
    s_name: list[str] = field(default_factory=list)
    s_queue: list[str] = field(default_factory=list)
    s_priority: list[int] = field(default_factory=list)
    s_codec: list[int] = field(default_factory=list)
    s_input: list[bytes] = field(default_factory=list)
    s_attributes: list[str | None] = field(default_factory=list)
    s_delay: list[float] = field(default_factory=list)
    s_run_at: list[datetime | None] = field(default_factory=list)
    s_timeout: list[float] = field(default_factory=list)
    s_deadline: list[datetime | None] = field(default_factory=list)
    s_version: list[str | None] = field(default_factory=list)
    s_partition: list[str | None] = field(default_factory=list)
    d_id: list[str] = field(default_factory=list)
    d_epoch: list[int] = field(default_factory=list)
    d_status: list[int] = field(default_factory=list)
    d_output: list[bytes | None] = field(default_factory=list)
    d_error: list[bytes | None] = field(default_factory=list)
    p_id: list[str] = field(default_factory=list)
    p_epoch: list[int] = field(default_factory=list)
    p_wake_at: list[datetime | None] = field(default_factory=list)
    p_key: list[str | None] = field(default_factory=list)
    p_signals: list[int] = field(default_factory=list)
    p_generation: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.c_id) + len(self.d_id) + len(self.p_id)

    def ids(self) -> set[str]:
        return {*self.c_id, *self.d_id, *self.p_id}

    def parts(self) -> frozenset[str]:
        """Which optional parts of the statement these rows need."""
        needed = {
            "messages": not TALKING.isdisjoint(self.c_kind),
            "parks": bool(self.p_id),
            "starts": bool(self.s_id),
        }
        return frozenset(part for part, some in needed.items() if some)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit's reply.

    `at`: the database's time. `cancels`: workflows to be cancelled. `leftovers`: those with rows not taken.
    `wakes`: whom these rows wake. `stirred`: those not parked, because something has happened to them.
    `children`: whether any were started.
    """

    at: datetime
    cancels: list[str]
    leftovers: list[str]
    wakes: list[str]
    stirred: Sequence[str] = ()
    children: bool = False
