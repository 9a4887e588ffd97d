"""The CustomResourceDefinition, generated from `resource.py` and `status.py`.

Pure. `python -m everstep_operator crd` prints it; the chart carries a copy that a test compares.
"""

from typing import Any

from everstep_operator import names
from everstep_operator.resource import Spec
from everstep_operator.schema import openapi
from everstep_operator.status import Status

_NAME_RULES = [
    {
        "rule": f"size(self.metadata.name) <= {names.MAX_APP_NAME}",
        "message": f"metadata.name may have at most {names.MAX_APP_NAME} characters:"
        " Deployments and Jobs are named after it",
    },
    {
        "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "message": "metadata.name must begin with a letter and hold only a-z, 0-9 and '-':"
        " it becomes part of labels and names",
    },
]


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": 1} if wide else {})


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_COLUMNS = [
    _column("Current", ".status.currentVersion"),
    _column("Target", ".status.targetVersion"),
    _column("Replicas", ".status.replicas", "integer"),
    _column("Ready", ".status.readyReplicas", "integer"),
    _column("Status", _condition("Ready", "reason")),
    _column("Rollout", _condition("Reconciling", "reason")),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Drain", _condition("Draining", "reason"), wide=True),
    _column("Schema", _condition("SchemaMigrated", "reason"), wide=True),
    _column("Message", _condition("Reconciling", "message"), wide=True),
]


def definition() -> dict[str, Any]:
    """The whole CRD as one JSON object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["dapp"],
                "categories": ["all", "durable"],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": names.API_VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _COLUMNS,
        "schema": {"openAPIV3Schema": _schema()},
    }


def _schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "The workflows of one schema in one database, and their workers.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": openapi(Spec),
            "status": openapi(Status),
        },
        "x-kubernetes-validations": _NAME_RULES,
    }
