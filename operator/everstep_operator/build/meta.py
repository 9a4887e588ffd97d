"""The metadata every object of a DurableApp carries: labels, the exact version, the owner."""

from typing import Any

from everstep_operator import names
from everstep_operator.resource import DurableApp


def metadata(app: DurableApp, name: str, version: str, component: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": app.namespace,
        "labels": names.labels(app.name, version, component),
        "annotations": {names.ANNOTATION_VERSION: version},
        "ownerReferences": [owner(app)],
    }


def owner(app: DurableApp) -> dict[str, Any]:
    """Deleting the DurableApp deletes all of it, without a finalizer that could hang."""
    return {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": names.KIND,
        "name": app.name,
        "uid": app.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
