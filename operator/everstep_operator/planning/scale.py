"""Sizes: how many replicas each Deployment gets, and who keeps the serving version at full size.

Pure. Without knowledge of the database nothing shrinks, not even on request: a scale-down that
waits costs money, one too many costs work in flight.
"""

from everstep_operator import names
from everstep_operator.build.deployment import applied_hash, deployment
from everstep_operator.observed import Deployment, Known, Observed
from everstep_operator.planning.actions import Action, ApplyDeployment, ScaleDeployment
from everstep_operator.resource import DurableApp


def serving(app: DurableApp, observed: Observed) -> str | None:
    """The version that takes new workflows; while nobody knows, the one known last."""
    if isinstance(observed.database, Known):
        return observed.database.routing.current
    return app.status.get("currentVersion")


def size(app: DurableApp, observed: Observed, found: Deployment | None) -> int:
    """What the user asks for, but no less than there is while the database is unknown."""
    if found is None or isinstance(observed.database, Known):
        return app.spec.replicas
    return max(app.spec.replicas, found.replicas)


def keep_serving(app: DurableApp, observed: Observed) -> tuple[Action, ...]:
    """The serving version stays at full size while another one comes in, or fails to."""
    version = serving(app, observed)
    if version is None:
        return ()
    found = observed.deployment(version)
    if found is None:
        return revive(app, observed, version, app.spec.replicas)
    wanted = size(app, observed, found)
    if found.replicas == wanted:
        return ()
    return (ScaleDeployment(found.name, wanted, "spec.replicas"),)


def revive(app: DurableApp, observed: Observed, version: str, replicas: int) -> tuple[Action, ...]:
    """Bring the Deployment of an older version back from its stored template."""
    found = observed.deployment(version)
    if found is not None:
        return (ScaleDeployment(found.name, replicas, f"{version} has open workflows"),)
    stored = observed.revision(version)
    if stored is None:
        return ()
    return (ApplyDeployment(version, deployment(app, version, stored.template, replicas)),)


def apply_target(app: DurableApp, observed: Observed) -> tuple[Action, ...]:
    """The Deployment of the wanted version, if it is not what it should be already."""
    found = observed.deployment(app.version)
    replicas = size(app, observed, found)
    body = deployment(app, app.version, app.spec.template, replicas)
    same = (
        found is not None
        and found.settled
        and found.replicas == replicas
        and found.applied == applied_hash(body)
        and found.name == names.deployment(app.name, app.version)
    )
    return () if same else (ApplyDeployment(app.version, body),)
