"""The status of a DurableApp as frozen dataclasses: what `kubectl get` and `describe` show.

Pure. Every field is a fact that stays the same while nothing happens: an age or a countdown
here would make an operator at rest write.
"""

from dataclasses import dataclass, field
from datetime import datetime

from everstep_operator.schema import about

_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_BY_VERSION = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["version"]}


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: str = field(metadata={"enum": ["True", "False", "Unknown"]})
    reason: str
    message: str
    observed_generation: int
    last_transition_time: datetime


@dataclass(frozen=True, slots=True)
class VersionStatus:
    version: str
    state: str = field(metadata=about("As in SQL: pending ramping current draining drained …"))
    deployment: str | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    workers: int | None = None
    running: int | None = field(default=None, metadata=about("Workflows claimed by a worker."))
    queued: int | None = field(default=None, metadata=about("Workflows that wait for a claim."))
    parked: int | None = field(default=None, metadata=about("Workflows that wait for a timer."))
    oldest: datetime | None = None
    next_wake: datetime | None = None
    sample: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    job: str
    version: str
    state: str = field(metadata={"enum": ["Running", "Migrated", "Failed"]})
    applied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    system_identifier: str = field(
        metadata=about("Of the database first seen; another one means: hands off.")
    )
    engine_schema: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    observed_generation: int
    conditions: tuple[Condition, ...] = field(default=(), metadata=_BY_TYPE)
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: str | None = None
    current_version: str | None = None
    target_version: str | None = None
    versions: tuple[VersionStatus, ...] = field(default=(), metadata=_BY_VERSION)
    migration: MigrationStatus | None = None
    database: DatabaseStatus | None = None
