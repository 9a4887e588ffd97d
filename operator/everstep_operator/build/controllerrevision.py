"""The ControllerRevision that keeps the pod template of a version exactly as the user wrote it.

From it a deleted Deployment comes back, and any version can be promoted again.
"""

from collections.abc import Mapping
from typing import Any

from everstep_operator import names
from everstep_operator.build.meta import metadata
from everstep_operator.resource import DurableApp


def controllerrevision(
    app: DurableApp, version: str, template: Mapping[str, Any], number: int
) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(app, names.revision(app.name, version, template), version, "template"),
        "revision": number,
        "data": {"version": version, "template": template},
    }
