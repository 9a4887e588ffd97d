"""Migrations before the new version: may its workers start, and if not, why not.

Pure. The ledger in Postgres is the truth, so running a Job once more is harmless; the status of
the DurableApp remembers the last one that succeeded, so that a deleted Job is not run again.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from everstep_operator.build.job import MIGRATION, job, job_name
from everstep_operator.observed import Job, JobState, Observed, Pod, Unknown, Unmigrated
from everstep_operator.planning.actions import Action, CreateJob, DeleteJob, Finding
from everstep_operator.planning.scale import serving
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp

# Passing faults: Kubernetes gave up, but the same files may well succeed a little later.
_PASSING = frozenset({"DatabaseUnreachable", "LockTimeout"})
_RETRY_AFTER = timedelta(seconds=60)
_KEPT_JOBS = 3
_NOT_STARTED = frozenset({"ImagePullFailed", "ContainerNotCreated", "Unschedulable"})


@dataclass(frozen=True, slots=True)
class Migration:
    done: bool
    finding: Finding
    actions: tuple[Action, ...] = ()


def plan_migration(app: DurableApp, observed: Observed, now: datetime) -> Migration:
    name = job_name(app)
    made = _plan(app, observed, name, now)
    return replace(made, actions=(*_never_began(observed, name), *made.actions))


def _plan(app: DurableApp, observed: Observed, name: str, now: datetime) -> Migration:
    found = next((j for j in observed.jobs if j.name == name), None)
    if found is None:
        return _absent(app, observed, name)
    match found.state:
        case JobState.COMPLETE:
            return Migration(True, _migrated(name), _cleanup(observed, name))
        case JobState.FAILED:
            return _failed(app, found, observed, now)
        case JobState.RUNNING:
            return Migration(False, _running(found, observed))


def _absent(app: DurableApp, observed: Observed, name: str) -> Migration:
    recorded = app.status.get("migration") or {}
    database = observed.database
    done = recorded.get("job") == name and recorded.get("state") == "Migrated"
    if done and not isinstance(database, Unmigrated):
        return Migration(True, _migrated(name))
    # An engine schema this operator cannot read is what the migration is there to change.
    if isinstance(database, Unknown) and database.reason != Reason.ENGINE_MISMATCH:
        message = f"migration Job {name} is not started: {database.message}"
        return Migration(False, Finding(Reason.MIGRATION_PENDING, message))
    finding = Finding(Reason.MIGRATION_RUNNING, f"Job {name} is being created")
    return Migration(False, finding, (CreateJob(job(app)),))


def _migrated(name: str) -> Finding:
    return Finding(Reason.MIGRATED, f"Job {name} brought engine and application schema up to date")


def _running(found: Job, observed: Observed) -> Finding:
    """An image that cannot be pulled is shown at once, not when the deadline has passed."""
    trouble = next((p.trouble for p in _pods_of(found, observed) if p.trouble), None)
    if trouble:
        message = f"Job {found.name} does not get on: {trouble.reason}: {trouble.message}"
        return Finding(Reason.MIGRATION_BLOCKED, message, stalled=True)
    tried = last_report(found, observed) or {}
    so_far = f"; its last try ended: {tried['message']}" if "message" in tried else ""
    return Finding(Reason.MIGRATION_RUNNING, f"Job {found.name} runs{so_far}")


def _failed(app: DurableApp, found: Job, observed: Observed, now: datetime) -> Migration:
    report = last_report(found, observed) or {}
    finding = Finding(Reason.MIGRATION_FAILED, _explain(app, observed, found, report), stalled=True)
    retry = report.get("code") in _PASSING and not isinstance(observed.database, Unknown)
    if retry and (found.finished_at is None or now - found.finished_at >= _RETRY_AFTER):
        why = f"{report['code']} has passed: the migration is tried again"
        return Migration(False, finding, (DeleteJob(found.name, why),))
    return Migration(False, finding)


def last_report(found: Job, observed: Observed) -> dict[str, Any] | None:
    """What the migration said of itself in its pod's termination message."""
    return next((dict(p.report) for p in _pods_of(found, observed) if p.report), None)


def _pods_of(found: Job, observed: Observed) -> list[Pod]:
    """Its pods, latest first."""
    pods = [p for p in observed.pods if p.component == MIGRATION and p.job == found.name]
    return sorted(pods, key=lambda p: (p.finished_at is None, p.finished_at or 0), reverse=True)


def _explain(app: DurableApp, observed: Observed, found: Job, report: dict[str, Any]) -> str:
    where = ", ".join(
        text
        for key, text in (
            ("file", f"file {report.get('file')}"),
            ("statement", f"statement {report.get('statement')}"),
            ("sqlstate", f"SQLSTATE {report.get('sqlstate')}"),
        )
        if report.get(key) is not None
    )
    said = str(report.get("message") or found.failure or "no reason given")
    parts = [str(report.get("code") or "MigrationFailed"), where, said[:500]]
    cause = ": ".join(part for part in parts if part)
    remedy = str(report.get("remedy") or f"see kubectl logs job/{found.name}").rstrip(".")
    current = serving(app, observed)
    meanwhile = f" {current} goes on serving." if current else ""
    return f"{cause}. {remedy}.{meanwhile} To try again: kubectl delete job {found.name}"


def _never_began(observed: Observed, name: str) -> tuple[Action, ...]:
    """A superseded Job whose pod cannot start would go on trying until its deadline."""
    return tuple(
        DeleteJob(other.name, f"its pod could not start, and {name} has taken its place")
        for other in observed.jobs
        if other.name != name
        and other.state is JobState.RUNNING
        and (pods := _pods_of(other, observed))
        and all(pod.trouble and pod.trouble.reason in _NOT_STARTED for pod in pods)
    )


def _cleanup(observed: Observed, name: str) -> tuple[Action, ...]:
    """Jobs of earlier rollouts say little; a few stay for their logs."""
    old = [j for j in observed.jobs if j.name != name and j.state is not JobState.RUNNING]
    old.sort(key=lambda j: (j.created_at is not None, j.created_at, j.name), reverse=True)
    why = "more than enough Jobs of earlier rollouts"
    return tuple(DeleteJob(j.name, why) for j in old[_KEPT_JOBS - 1 :])
