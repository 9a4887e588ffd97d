"""Observed: cluster and database at one moment, as one frozen value.

Pure. `observe.py` and `database.py` fill it; planning and report read it and nothing else.
Not knowing is a value of its own (`Unknown`), so that nobody can mistake it for zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Of a version, as in SQL."""

    PENDING = "pending"
    RAMPING = "ramping"
    CURRENT = "current"
    DRAINING = "draining"
    DRAINED = "drained"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Version:
    """A row of `v1_versions`."""

    version: str
    state: State
    workers: int = 0
    running: int = 0
    queued: int = 0
    parked: int = 0
    created_at: datetime | None = None
    draining_since: datetime | None = None
    drained_since: datetime | None = None
    oldest: datetime | None = None
    next_wake: datetime | None = None
    sample: tuple[str, ...] = ()

    @property
    def open(self) -> int:
        return self.running + self.queued + self.parked


@dataclass(frozen=True, slots=True)
class Worker:
    """A row of `v1_workers`."""

    pod: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class Routing:
    """The row of `v1_routing`; ages are measured with its clock, not with the operator's."""

    current: str | None
    revision: int
    changed_at: datetime | None
    database_time: datetime
    system_identifier: str
    engine_schema: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """The database answered, is the right one, and may be written."""

    routing: Routing
    versions: tuple[Version, ...] = ()
    workers: tuple[Worker, ...] = ()

    def version(self, name: str) -> Version | None:
        return next((v for v in self.versions if v.version == name), None)


@dataclass(frozen=True, slots=True)
class Unmigrated:
    """The database answers, but has no engine schema yet: normal before the first migration."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known about workflows; `reason` is a condition reason, `message` for people."""

    reason: str
    message: str


Database = Known | Unmigrated | Unknown


@dataclass(frozen=True, slots=True)
class Deployment:
    name: str
    version: str
    replicas: int
    ready: int = 0
    """Pods of the newest template that are ready; 0 until Kubernetes has seen that template."""
    available: int = 0
    """Ready pods of any template: what serves at this moment."""
    present: int = 0
    """All its pods, whatever their template."""
    created_at: datetime | None = None
    applied: str | None = None
    """Hash of the object last applied."""
    settled: bool = True
    """False when somebody else may have changed it since: then it is applied again."""
    failure: str | None = None
    """Why the Deployment itself says that it does not get on."""


class JobState(StrEnum):
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    version: str
    state: JobState
    created_at: datetime | None = None
    finished_at: datetime | None = None
    failure: str | None = None
    """Why Kubernetes gave up on it."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A stored pod template of one version."""

    name: str
    version: str
    number: int
    template: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not start or does not live."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    version: str
    component: str
    job: str | None = None
    created_at: datetime | None = None
    trouble: Trouble | None = None
    report: Mapping[str, Any] | None = None
    """JSON from the termination message of a migration."""
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    database: Database
    deployments: tuple[Deployment, ...] = ()
    jobs: tuple[Job, ...] = ()
    revisions: tuple[Revision, ...] = ()
    pods: tuple[Pod, ...] = ()
    gone_pods: frozenset[str] = field(default_factory=frozenset)
    """Pods of ours that existed and do not run any more."""

    def deployment(self, version: str) -> Deployment | None:
        return next((d for d in self.deployments if d.version == version), None)

    def revision(self, version: str) -> Revision | None:
        """The newest template stored for a version."""
        stored = [r for r in self.revisions if r.version == version]
        return max(stored, key=lambda r: r.number, default=None)
