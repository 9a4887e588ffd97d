"""The rollout of the wanted version: Deployment, workers that report, promotion.

Pure. Until the promotion every failure leaves the serving version alone and at full size; the
promotion is one statement with the routing revision it was decided on.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from everstep_operator import names
from everstep_operator.observed import Deployment, Known, Observed, Trouble, Unknown, Unmigrated
from everstep_operator.planning.actions import Action, Finding, SetRouting
from everstep_operator.planning.migration import Migration
from everstep_operator.planning.scale import apply_target, keep_serving, serving
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp


@dataclass(frozen=True, slots=True)
class Rollout:
    finding: Finding
    actions: tuple[Action, ...] = ()


def plan_rollout(
    app: DurableApp, observed: Observed, migration: Migration, now: datetime
) -> Rollout:
    if not migration.done:
        return _before_migration(app, observed, migration)
    match observed.database:
        case Unknown():
            return _blind(app, observed)
        case Unmigrated():
            return Rollout(_nothing_there(app))
        case Known():
            return _roll(app, observed, observed.database, now)


def _before_migration(app: DurableApp, observed: Observed, migration: Migration) -> Rollout:
    reason = (
        Reason.DATABASE_UNKNOWN
        if isinstance(observed.database, Unknown) and not migration.finding.stalled
        else Reason.MIGRATING
    )
    message = f"{app.version} waits: {migration.finding.message}"
    finding = Finding(reason, message, stalled=migration.finding.stalled)
    return Rollout(finding, keep_serving(app, observed))


def _blind(app: DurableApp, observed: Observed) -> Rollout:
    """Database unknown: what serves is kept up, nothing new comes in and nothing goes."""
    assert isinstance(observed.database, Unknown)
    message = f"nothing is promoted, scaled down or deleted: {observed.database.message}"
    finding = Finding(Reason.DATABASE_UNKNOWN, message)
    if serving(app, observed) == app.version:
        return Rollout(finding, apply_target(app, observed))
    return Rollout(finding, keep_serving(app, observed))


def _nothing_there(app: DurableApp) -> Finding:
    message = (
        f"the migration Job succeeded, but schema {app.spec.database.schema!r} has no engine"
        " tables where database.urlFrom points: check that migrations.urlFrom means the same"
        " database, then delete the Job to run it again"
    )
    return Finding(Reason.MIGRATING, message, stalled=True)


def _roll(app: DurableApp, observed: Observed, database: Known, now: datetime) -> Rollout:
    promoted = database.routing.current == app.version
    kept = () if promoted else keep_serving(app, observed)
    applying = apply_target(app, observed)
    found = observed.deployment(app.version)
    if applying or found is None:
        reason = Reason.RESIZING if promoted else Reason.STARTING_WORKERS
        message = f"Deployment {names.deployment(app.name, app.version)} is being applied"
        return Rollout(Finding(reason, message), kept + applying)
    waiting = _waiting(app, database, found)
    if waiting:
        return Rollout(_judge(app, observed, found, waiting, now, promoted=promoted), kept)
    if promoted:
        message = f"{app.version} is current, {found.ready} of {found.replicas} replicas ready"
        return Rollout(Finding(Reason.UP_TO_DATE, message))
    message = f"{app.version} becomes current: all its workers have reported"
    promote = SetRouting(app.version, database.routing.revision)
    return Rollout(Finding(Reason.PROMOTING, message), (*kept, promote))


def _waiting(app: DurableApp, database: Known, found: Deployment) -> str | None:
    """What is still missing before the version can carry the load, if anything."""
    if found.ready < found.replicas:
        return f"{found.ready} of {found.replicas} replicas of {app.version} are ready"
    if database.routing.current == app.version:
        return None
    row = database.version(app.version)
    workers = row.workers if row else 0
    if workers < found.replicas:
        return f"{workers} of {found.replicas} workers of {app.version} have reported in SQL"
    return None


def _judge(
    app: DurableApp,
    observed: Observed,
    found: Deployment,
    waiting: str,
    now: datetime,
    *,
    promoted: bool,
) -> Finding:
    """Waiting is normal, until a pod says why it cannot start or the deadline has passed."""
    trouble = worker_trouble(observed, app.version)
    if trouble:
        message = f"{waiting}: {trouble.reason}: {trouble.message}"
        return Finding(Reason.WORKERS_FAILING, message, stalled=True)
    if found.failure:
        return Finding(Reason.WORKERS_FAILING, f"{waiting}: {found.failure}", stalled=True)
    seconds = app.spec.rollout.progress_deadline_seconds
    began = _complete_since(observed, found)
    if not promoted and began and now - began > timedelta(seconds=seconds):
        message = (
            f"{waiting} after {seconds} s: see kubectl logs deployment/{found.name}; do its"
            " workers use this database and schema?"
        )
        return Finding(Reason.WORKERS_FAILING, message, stalled=True)
    return Finding(Reason.RESIZING if promoted else Reason.STARTING_WORKERS, waiting)


def _complete_since(observed: Observed, found: Deployment) -> datetime | None:
    """When the last of its pods was made; until then Kubernetes keeps the deadline (`failure`).

    Not the age of the Deployment: that of a rollback is old before its first pod begins.
    """
    made = [
        p.created_at
        for p in observed.pods
        if p.component == names.WORKER and p.version == found.version and p.created_at
    ]
    return max(made) if made and len(made) >= found.replicas else None


def worker_trouble(observed: Observed, version: str) -> Trouble | None:
    """The first pod of a version, by name, that cannot start or live."""
    pods = sorted(observed.pods, key=lambda p: p.name)
    return next(
        (
            p.trouble
            for p in pods
            if p.component == names.WORKER and p.version == version and p.trouble
        ),
        None,
    )
