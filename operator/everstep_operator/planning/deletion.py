"""What may be thrown away: versions that never served, and templates nobody needs.

Pure, and only with a database that answered. A version that was superseded before it served goes
with its Deployment, and its row in SQL is retired after that. A Deployment without a row in SQL was either never
promoted, or the database was restored to an earlier time; only the first may go, and the status
of the DurableApp remembers which it is.
"""

from everstep_operator import names
from everstep_operator.observed import Known, Observed, State
from everstep_operator.planning.actions import (
    Action,
    DeleteDeployment,
    DeleteRevision,
    RetireVersion,
)
from everstep_operator.resource import DurableApp

KEPT_REVISIONS = 10


def plan_deletion(app: DurableApp, observed: Observed) -> tuple[Action, ...]:
    database = observed.database
    if not isinstance(database, Known):
        return ()
    keep = {app.version, database.routing.current}
    return (
        *_superseded(app, observed, database, keep),
        *_never_served(observed, database, keep),
        *_revisions(app, observed, database, keep),
    )


def _superseded(
    app: DurableApp, observed: Observed, database: Known, keep: set[str | None]
) -> list[Action]:
    gone: list[Action] = []
    for found in observed.deployments:
        if found.version in keep:
            continue
        row = database.version(found.version)
        never = row.state is State.PENDING and not row.open if row else _never(app, found.version)
        if never:
            why = f"{found.version} was superseded before it served"
            gone.append(DeleteDeployment(found.name, why))
    return gone


def _never_served(observed: Observed, database: Known, keep: set[str | None]) -> list[Action]:
    """Rows that nothing stands behind any more: no Deployment, no worker, no open workflow."""
    return [
        RetireVersion(row.version)
        for row in sorted(database.versions, key=lambda v: v.version)
        if row.state is State.PENDING
        and row.version not in keep
        and not (row.open or row.workers or observed.deployment(row.version))
    ]


def _never(app: DurableApp, version: str) -> bool:
    """Without a row: did this version ever serve, as far as anybody remembers?"""
    if app.status.get("currentVersion") == version:
        return False
    states: dict[str, str] = {
        v["version"]: v.get("state", "") for v in app.status.get("versions") or ()
    }
    return states.get(version, State.PENDING) == State.PENDING


def _revisions(
    app: DurableApp, observed: Observed, database: Known, keep: set[str | None]
) -> list[Action]:
    wanted = names.revision(app.name, app.version, app.spec.template)
    if not any(r.name == wanted for r in observed.revisions):
        return []
    outdated = [
        DeleteRevision(r.name, f"{r.version} has a newer template")
        for r in observed.revisions
        if _outdated(r.version, r.name, wanted, app, observed)
    ]
    needed = keep | {d.version for d in observed.deployments}
    needed |= {v.version for v in database.versions if v.state is not State.RETIRED or v.open}
    spare = [r for r in observed.revisions if r.version not in needed]
    spare.sort(key=lambda r: r.number, reverse=True)
    beyond = [DeleteRevision(r.name, "beyond the history kept") for r in spare[KEPT_REVISIONS:]]
    names_outdated = {action.name for action in outdated}
    return [*outdated, *(a for a in beyond if a.name not in names_outdated)]


def _outdated(version: str, name: str, wanted: str, app: DurableApp, observed: Observed) -> bool:
    if version == app.version:
        return name != wanted
    newest = observed.revision(version)
    return newest is not None and newest.name != name
