"""Versions that are leaving: they finish what they began, then shrink, then go.

Pure. Only a database that answered may let a version shrink. A version that has open workflows
again gets its workers back, however far it had gone.
"""

from dataclasses import dataclass
from datetime import timedelta

from everstep_operator.observed import (
    Deployment,
    Known,
    Observed,
    State,
    Version,
)
from everstep_operator.planning.actions import (
    Action,
    DeleteDeployment,
    Finding,
    MarkDrained,
    RetireVersion,
    ScaleDeployment,
)
from everstep_operator.planning.scale import revive
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp
from everstep_operator.schema import duration_text

_QUIESCENCE = timedelta(seconds=30)
_LEAVING = (State.DRAINING, State.DRAINED, State.RETIRED)


@dataclass(frozen=True, slots=True)
class Leaving:
    """What happens to one version that is leaving; `due` is when to look again."""

    actions: tuple[Action, ...] = ()
    finding: Finding | None = None
    due: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    finding: Finding
    actions: tuple[Action, ...] = ()
    due: timedelta | None = None


def plan_drain(app: DurableApp, observed: Observed) -> Drain:
    database = observed.database
    unborn = not (app.status.get("currentVersion") or observed.deployments)
    if unborn and not isinstance(database, Known):
        return Drain(Finding(Reason.NOTHING_TO_DRAIN, "no version has served yet"))
    if not isinstance(database, Known):
        message = "what old versions still hold is not known, so all of them stay"
        return Drain(Finding(Reason.DRAIN_UNKNOWN, message))
    parts = [
        _leave(app, observed, database, version)
        for version in sorted(database.versions, key=lambda v: v.version)
        if version.state in _LEAVING
        and version.version not in (app.version, database.routing.current)
    ]
    findings = [part.finding for part in parts if part.finding]
    return Drain(
        finding=_join(findings),
        actions=tuple(action for part in parts for action in part.actions),
        due=min((part.due for part in parts if part.due is not None), default=None),
    )


def _join(findings: list[Finding]) -> Finding:
    if not findings:
        return Finding(Reason.NOTHING_TO_DRAIN, "no version is leaving")
    # The reason of the part that will take longest; each part has its own sentence.
    order = (Reason.STRANDED, Reason.WAITING_FOR_WORKFLOWS, Reason.WAITING_FOR_QUIESCENCE)
    first = min(findings, key=lambda f: order.index(f.reason) if f.reason in order else 9)
    message = "; ".join(finding.message for finding in findings)
    return Finding(first.reason, message, stalled=any(f.stalled for f in findings))


def _leave(app: DurableApp, observed: Observed, database: Known, version: Version) -> Leaving:
    found = observed.deployment(version.version)
    if version.open:
        return _hold(app, observed, version, found)
    if version.state is State.DRAINING:
        since = version.draining_since or database.routing.database_time
        left = _QUIESCENCE - (database.routing.database_time - since)
        message = f"{version.version} has no open workflow; a last late claim is waited out"
        return Leaving(
            (MarkDrained(version.version),),
            Finding(Reason.WAITING_FOR_QUIESCENCE, message),
            max(left, timedelta(0)),
        )
    return _shrink(app, database, version, found)


def _hold(
    app: DurableApp, observed: Observed, version: Version, found: Deployment | None
) -> Leaving:
    message = (
        f"{version.version} drains: {version.running} running, {version.queued} queued,"
        f" {version.parked} parked"
    )
    if version.next_wake:
        message += f", next timer {version.next_wake:%Y-%m-%dT%H:%M:%SZ}"
    if version.sample:
        message += f" (for example {version.sample[0]})"
    if found is not None and found.replicas > 0:
        return Leaving((), Finding(Reason.WAITING_FOR_WORKFLOWS, message))
    actions = revive(app, observed, version.version, max(1, app.spec.replicas))
    if actions:
        return Leaving(actions, Finding(Reason.WAITING_FOR_WORKFLOWS, message))
    message += ", but no pod template of it is stored: apply its image again or cancel them"
    return Leaving((), Finding(Reason.STRANDED, message, stalled=True))


def _shrink(
    app: DurableApp, database: Known, version: Version, found: Deployment | None
) -> Leaving:
    """Drained: to zero after one delay, gone after the other, retired when it is gone."""
    since = version.drained_since or database.routing.database_time
    age = database.routing.database_time - since
    drain = app.spec.drain
    if found is not None and found.replicas > 0:
        if age < drain.scale_down_delay:
            message = (
                f"{version.version} is drained; its workers stay for"
                f" {duration_text(drain.scale_down_delay)} (drain.scaleDownDelay)"
            )
            finding = Finding(Reason.WAITING_FOR_DELAY, message)
            return Leaving((), finding, drain.scale_down_delay - age)
        scale = ScaleDeployment(found.name, 0, f"{version.version} is drained")
        return Leaving((scale,), None, timedelta(0))
    if version.state is not State.RETIRED and age < drain.delete_delay:
        return Leaving(due=drain.delete_delay - age)
    return _remove(version, found)


def _remove(version: Version, found: Deployment | None) -> Leaving:
    """Retired last, once nothing is left: a crash in between repeats a step, skips none."""
    if found is None:
        retired = version.state is State.RETIRED
        return Leaving(() if retired else (RetireVersion(version.version),))
    if found.present:
        return Leaving(due=timedelta(seconds=2))
    delete = DeleteDeployment(found.name, f"{version.version} is drained")
    return Leaving((delete,), None, timedelta(0))
