"""The Plan of one DurableApp: the parts of `planning`, put in order.

Pure: (DurableApp, Observed, now) -> Plan. The order of the actions is the order of the rollout,
so that a plan carried out half-way leaves the world in a state the next one goes on from.
"""

from datetime import datetime, timedelta

from everstep_operator import names
from everstep_operator.build.controllerrevision import controllerrevision
from everstep_operator.observed import Known, Observed
from everstep_operator.planning.actions import (
    Action,
    ApplyDeployment,
    DeclareDead,
    Finding,
    Plan,
    StoreRevision,
)
from everstep_operator.planning.deletion import plan_deletion
from everstep_operator.planning.drain import Drain, plan_drain
from everstep_operator.planning.migration import plan_migration
from everstep_operator.planning.rollout import plan_rollout
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp

ROLLING = 2.0
DRAINING = 15.0
IDLE = 60.0


def plan(app: DurableApp, observed: Observed, now: datetime) -> Plan:
    """What to do about one object now."""
    migration = plan_migration(app, observed, now)
    rollout = plan_rollout(app, observed, migration, now)
    drain = plan_drain(app, observed)
    actions: tuple[Action, ...] = (
        *_declare_dead(observed),
        *migration.actions,
        *_store_template(app, observed, rollout.actions),
        *rollout.actions,
        *drain.actions,
        *plan_deletion(app, observed),
    )
    finding = rollout.finding
    if app.spec.suspend or app.deleting:
        actions, finding = (), _held(app, actions)
    return Plan(
        target=app.version,
        rollout=finding,
        migration=migration.finding,
        drain=drain.finding,
        actions=actions,
        interval=_interval(finding, drain),
    )


def _held(app: DurableApp, actions: tuple[Action, ...]) -> Finding:
    if app.deleting:
        return Finding(Reason.DELETING, "Kubernetes removes what this object owns")
    would = ", ".join(type(action).__name__ for action in actions) or "nothing"
    return Finding(Reason.SUSPENDED, f"spec.suspend is true; otherwise now: {would}")


def _declare_dead(observed: Observed) -> tuple[Action, ...]:
    """A pod that is gone holds no lease any more: its workflows need not wait for the TTL."""
    if not isinstance(observed.database, Known):
        return ()
    lost = {
        worker.pod
        for worker in observed.database.workers
        if worker.state != "dead" and worker.pod in observed.gone_pods
    }
    return tuple(DeclareDead(pod) for pod in sorted(lost))


def _store_template(
    app: DurableApp, observed: Observed, actions: tuple[Action, ...]
) -> tuple[Action, ...]:
    """The template is kept before the first pod of it runs."""
    wanted = names.revision(app.name, app.version, app.spec.template)
    used = observed.deployment(app.version) is not None or any(
        isinstance(a, ApplyDeployment) and a.version == app.version for a in actions
    )
    if not used or any(r.name == wanted for r in observed.revisions):
        return ()
    number = max((r.number for r in observed.revisions), default=0) + 1
    return (StoreRevision(controllerrevision(app, app.version, app.spec.template, number)),)


def _interval(finding: Finding, drain: Drain) -> float:
    """Often while something moves, seldom at rest, and in time for what is due."""
    if finding.reason in (Reason.UP_TO_DATE, Reason.SUSPENDED, Reason.DELETING):
        resting = drain.finding.reason is Reason.NOTHING_TO_DRAIN
        usual = IDLE if resting else DRAINING
    else:
        usual = DRAINING if finding.stalled else ROLLING
    if drain.due is None:
        return usual
    return min(usual, max(ROLLING, (drain.due + timedelta(seconds=1)).total_seconds()))
