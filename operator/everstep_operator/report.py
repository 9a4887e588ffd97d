"""Report: conditions and status of a DurableApp, from what was observed and planned.

Pure. A condition's reason is a constant word, its message says what is awaited and what to do.
Nothing in here counts time, so that equal worlds give equal statuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from everstep_operator import names
from everstep_operator.build.job import job_name
from everstep_operator.observed import (
    Database,
    JobState,
    Known,
    Observed,
    State,
    Unknown,
    Unmigrated,
    Version,
)
from everstep_operator.planning.actions import Finding, Plan
from everstep_operator.planning.migration import last_report
from everstep_operator.planning.scale import serving
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp
from everstep_operator.schema import from_json, to_json
from everstep_operator.status import (
    Condition,
    DatabaseStatus,
    MigrationStatus,
    Status,
    VersionStatus,
)

_AT_REST = (Reason.UP_TO_DATE, Reason.SUSPENDED)
_NOBODY = "nobody has to do anything"
_HELD = (
    Reason.WAITING_FOR_WORKFLOWS,
    Reason.WAITING_FOR_QUIESCENCE,
    Reason.WAITING_FOR_DELAY,
    Reason.STRANDED,
)


@dataclass(frozen=True, slots=True)
class _Verdict:
    type: str
    status: bool | None
    finding: Finding


def report(
    app: DurableApp, observed: Observed, plan: Plan, refused: tuple[str, ...], now: datetime
) -> dict[str, Any]:
    """The whole status as JSON; `refused` are messages of actions that were rejected."""
    rollout = plan.rollout
    if refused:
        rollout = Finding(Reason.REJECTED, "; ".join(refused)[:2000], stalled=True)
    verdicts = _verdicts(app, observed, plan, rollout)
    current = serving(app, observed)
    shown = observed.deployment(current or app.version)
    status = Status(
        observed_generation=app.generation,
        conditions=_conditions(app.generation, app.status, verdicts, now),
        replicas=shown.present if shown else 0,
        ready_replicas=shown.available if shown else 0,
        selector=names.selector_text(app.name, current or app.version),
        current_version=current,
        target_version=app.version,
        versions=_versions(app, observed),
        migration=_migration(app, observed),
        database=_identity(app, observed.database),
    )
    return dict(to_json(status))


def _verdicts(app: DurableApp, observed: Observed, plan: Plan, rollout: Finding) -> list[_Verdict]:
    return [
        _ready(app, observed, rollout),
        *_progress(rollout, plan),
        _reachable(observed.database),
        _migrated(plan.migration),
        _Verdict("Draining", plan.drain.reason in _HELD, plan.drain),
    ]


def report_invalid(body: Mapping[str, Any], problem: str, now: datetime) -> dict[str, Any]:
    """A spec that cannot be read: say so, and leave every other word as it was."""
    old, generation = body.get("status") or {}, body["metadata"].get("generation", 0)
    finding = Finding(Reason.INVALID_SPEC, problem, stalled=True)
    verdicts = [_Verdict("Stalled", True, finding), _Verdict("Reconciling", False, finding)]
    fresh = [to_json(c) for c in _conditions(generation, old, verdicts, now)]
    kept = [c for c in old.get("conditions") or () if c["type"] not in ("Stalled", "Reconciling")]
    conditions = sorted([*kept, *fresh], key=lambda c: str(c["type"]))
    return {**old, "observedGeneration": generation, "conditions": conditions}


def _ready(app: DurableApp, observed: Observed, rollout: Finding) -> _Verdict:
    current = serving(app, observed)
    if current is None:
        message = f"no version serves yet: {rollout.message}"
        return _Verdict("Ready", False, Finding(Reason.NO_CURRENT, message))
    found = observed.deployment(current)
    if found and found.replicas == 0 and app.spec.replicas == 0:
        message = f"{current} has no workers because spec.replicas is 0"
        return _Verdict("Ready", True, Finding(Reason.SCALED_TO_ZERO, message))
    if found is None or found.available == 0:
        message = f"no worker of {current} is ready: {rollout.message}"
        return _Verdict("Ready", False, Finding(Reason.CURRENT_UNAVAILABLE, message))
    message = f"{current} serves with {found.available} of {found.replicas} replicas"
    return _Verdict("Ready", True, Finding(Reason.CURRENT_AVAILABLE, message))


def _progress(rollout: Finding, plan: Plan) -> tuple[_Verdict, _Verdict]:
    """Either it goes on by itself or somebody has to act: never both at once."""
    stuck = next((f for f in (rollout, plan.drain) if f.stalled), None)
    moving = rollout.reason not in _AT_REST and not rollout.stalled
    return (
        _Verdict("Reconciling", moving, rollout),
        _Verdict("Stalled", stuck is not None, stuck or Finding(rollout.reason, _NOBODY)),
    )


def _reachable(database: Database) -> _Verdict:
    if isinstance(database, Unknown):
        finding = Finding(Reason(database.reason), database.message)
        return _Verdict("DatabaseReachable", False, finding)
    return _Verdict("DatabaseReachable", True, Finding(Reason.CONNECTED, "the database answers"))


def _migrated(finding: Finding) -> _Verdict:
    if finding.reason is Reason.MIGRATION_PENDING:
        return _Verdict("SchemaMigrated", None, finding)
    return _Verdict("SchemaMigrated", finding.reason is Reason.MIGRATED, finding)


def _conditions(
    generation: int, status: Mapping[str, Any], verdicts: list[_Verdict], now: datetime
) -> tuple[Condition, ...]:
    old = {c["type"]: c for c in status.get("conditions") or ()}
    words = {True: "True", False: "False", None: "Unknown"}
    made: list[Condition] = []
    for verdict in sorted(verdicts, key=lambda v: v.type):
        before, word = old.get(verdict.type), words[verdict.status]
        since = now
        if before and before["status"] == word:
            since = datetime.fromisoformat(before["lastTransitionTime"])
        made.append(
            Condition(
                type=verdict.type,
                status=word,
                reason=verdict.finding.reason.value,
                message=verdict.finding.message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return tuple(made)


def _versions(app: DurableApp, observed: Observed) -> tuple[VersionStatus, ...]:
    """One entry per live version, in the order of their names."""
    live = {d.version for d in observed.deployments} | {app.version}
    if isinstance(observed.database, Known):
        serving_states = (State.CURRENT, State.RAMPING, State.DRAINING)
        rows = observed.database.versions
        live |= {v.version for v in rows if v.state in serving_states or v.open}
    else:
        live |= {v["version"] for v in app.status.get("versions") or ()}
    return tuple(_version(app, observed, version) for version in sorted(live))


def _version(app: DurableApp, observed: Observed, version: str) -> VersionStatus:
    found = observed.deployment(version)
    row = observed.database.version(version) if isinstance(observed.database, Known) else None
    shown = _from_row(row) if row else _last_known(app, observed, version)
    return replace(
        shown,
        deployment=found.name if found else None,
        replicas=found.present if found else None,
        ready_replicas=found.available if found else None,
    )


def _from_row(row: Version) -> VersionStatus:
    return VersionStatus(
        version=row.version,
        state=row.state.value,
        workers=row.workers,
        running=row.running,
        queued=row.queued,
        parked=row.parked,
        oldest=row.oldest,
        next_wake=row.next_wake,
        sample=row.sample,
    )


def _last_known(app: DurableApp, observed: Observed, version: str) -> VersionStatus:
    """While the database is unknown its last numbers stay; without a row only the state does."""
    entries = app.status.get("versions") or ()
    old = next((v for v in entries if v["version"] == version), None)
    if old is None:
        return VersionStatus(version, State.PENDING.value)
    if isinstance(observed.database, Unknown):
        return from_json(VersionStatus, old)
    return VersionStatus(version, old.get("state", State.PENDING.value))


def _migration(app: DurableApp, observed: Observed) -> MigrationStatus | None:
    name = job_name(app)
    found = next((j for j in observed.jobs if j.name == name), None)
    if found is None:
        old = app.status.get("migration")
        if not old or old["job"] != name or old["state"] != "Migrated":
            return None
        return MigrationStatus(name, old["version"], old["state"], tuple(old.get("applied", ())))
    words = {JobState.COMPLETE: "Migrated", JobState.FAILED: "Failed", JobState.RUNNING: "Running"}
    said = last_report(found, observed) or {}
    applied = tuple(str(file) for file in said.get("applied") or ())
    return MigrationStatus(name, found.version, words[found.state], applied)


def _identity(app: DurableApp, database: Database) -> DatabaseStatus | None:
    """Of the database whose workflows these numbers count; kept while it is unknown."""
    if isinstance(database, Unmigrated):
        return None
    if isinstance(database, Known):
        return DatabaseStatus(database.routing.system_identifier, database.routing.engine_schema)
    old = app.status.get("database")
    return DatabaseStatus(old["systemIdentifier"], old.get("engineSchema")) if old else None
