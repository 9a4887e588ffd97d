"""The closed set of things the operator may do to the world, as values.

A Plan is a list of these. `apply.py` matches them exhaustively; nothing else writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everstep_operator.reasons import Reason


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Start a migration. A Job is created once and never changed."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteJob:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class StoreRevision:
    """Keep the pod template of a version, so that its Deployment can come back."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteRevision:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class ApplyDeployment:
    """Server-side apply of the whole Deployment of one version."""

    version: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScaleDeployment:
    """Change the size only: the pods of a version that is leaving are not restarted."""

    name: str
    replicas: int
    why: str


@dataclass(frozen=True, slots=True)
class DeleteDeployment:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class SetRouting:
    """Promote: unpinned workflows go to this version from now on."""

    version: str
    expected_revision: int


@dataclass(frozen=True, slots=True)
class MarkDrained:
    version: str


@dataclass(frozen=True, slots=True)
class RetireVersion:
    version: str


@dataclass(frozen=True, slots=True)
class DeclareDead:
    pod: str


Action = (
    CreateJob
    | DeleteJob
    | StoreRevision
    | DeleteRevision
    | ApplyDeployment
    | ScaleDeployment
    | DeleteDeployment
    | SetRouting
    | MarkDrained
    | RetireVersion
    | DeclareDead
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one part of the plan waits for: a constant reason and a sentence for people."""

    reason: Reason
    message: str
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what is awaited, and when to look again without being woken."""

    target: str
    rollout: Finding
    migration: Finding
    drain: Finding
    actions: tuple[Action, ...] = ()
    interval: float = 60.0
