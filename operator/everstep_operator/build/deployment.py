"""The Deployment of one version of a DurableApp."""

from collections.abc import Mapping
from typing import Any

from everstep_operator import names
from everstep_operator.build.meta import metadata
from everstep_operator.build.pod import worker_template
from everstep_operator.resource import DurableApp


def deployment(
    app: DurableApp, version: str, template: Mapping[str, Any], replicas: int
) -> dict[str, Any]:
    """Complete, for server-side apply; its annotation holds the hash of all the rest."""
    name = names.deployment(app.name, version)
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(app, name, version, names.WORKER),
        "spec": {
            "replicas": replicas,
            "paused": False,  # else a `kubectl rollout pause` would hold a rollout and say nothing
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": app.spec.rollout.progress_deadline_seconds,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
            },
            "selector": {"matchLabels": names.selector(app.name, version)},
            "template": worker_template(app, version, template),
        },
    }
    body["metadata"]["annotations"][names.ANNOTATION_APPLIED] = names.fingerprint(body, 16)
    return body


def applied_hash(body: Mapping[str, Any]) -> str:
    found: str = body["metadata"]["annotations"][names.ANNOTATION_APPLIED]
    return found
