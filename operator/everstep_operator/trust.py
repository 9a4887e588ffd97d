"""Is this database the one whose workflows the status counts?

Pure. Another database under the same address has other numbers, and an emptied one has none: both
are not known until somebody accepts them by an annotation.
"""

from everstep_operator import names
from everstep_operator.observed import Database, Unknown, Unmigrated
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp

_EMPTY = "empty"


def trusted(app: DurableApp, database: Database) -> Database:
    """Another database under the same address is not the one whose workflows we count."""
    expected = (app.status.get("database") or {}).get("systemIdentifier")
    if isinstance(database, Unknown) or expected is None:
        return database
    accepted = app.annotations.get(names.ANNOTATION_ACCEPT_DATABASE)
    if isinstance(database, Unmigrated):
        # Before the first promotion there is nothing to lose: another Secret is a mended mistake.
        served = app.status.get("currentVersion")
        return _emptied(app) if served and accepted != _EMPTY else database
    found = database.routing.system_identifier
    if found in (expected, accepted):
        return database
    return Unknown(
        Reason.IDENTITY_CHANGED,
        f"this is another database (system identifier {found}, before {expected}); if that is"
        f" meant: kubectl annotate dapp {app.name} {names.ANNOTATION_ACCEPT_DATABASE}={found}",
    )


def _emptied(app: DurableApp) -> Unknown:
    return Unknown(
        Reason.IDENTITY_CHANGED,
        f"schema {app.spec.database.schema} has no engine tables any more: the Secret names another"
        " database, or this one was emptied; if it shall begin anew:"
        f" kubectl annotate dapp {app.name} {names.ANNOTATION_ACCEPT_DATABASE}={_EMPTY}",
    )
