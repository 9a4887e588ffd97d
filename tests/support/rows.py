"""What the tables hold of one workflow, as the oracle keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

READY, RUNNING, WAITING = 1, 2, 3
OPEN, SUCCEEDED, FAILED, CANCELLED, DEAD_LETTER = 0, 1, 2, 3, 4


@dataclass
class Run:
    state: int
    ready_at: float
    wake_at: float | None = None
    wait_key: str | None = None
    worker: int | None = None
    epoch: int = 0
    signals: int = 0
    cancel: bool = False
    crashes: int = 0
    progress: int = 0
    dedup: str | None = None
    pinned: bool = False
    waiters: list[str] = field(default_factory=list)


@dataclass
class Message:
    body: int
    taken_at: int | None = None


@dataclass
class Workflow:
    status: int = OPEN
    by: int | None = None
    epoch: int | None = None
    output: int | None = None
    parent: str | None = None
    # By its number: kind, worker, epoch and outcome.
    log: dict[int, tuple[int, int, int, str]] = field(default_factory=dict)
    mail: list[Message] = field(default_factory=list)
