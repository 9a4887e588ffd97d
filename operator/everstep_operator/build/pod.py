"""The pod template of a version: the user's words, with safe defaults under them.

Pure. Whatever the user wrote stays; the restricted pod security profile, probes, a writable
`/tmp` and the variables of the contract are filled in where nothing stands.
"""

from collections.abc import Mapping
from typing import Any

from everstep_operator import names
from everstep_operator.resource import DurableApp, SecretKey

PORT_NAME = "everstep"
_DEFAULT_PORT = 9464
_DEFAULT_GRACE = 30
_MARGIN = 10

_POD_DEFAULTS: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
_CONTAINER_DEFAULTS: dict[str, Any] = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
}


def worker_template(app: DurableApp, version: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """What the Deployment of a version runs."""
    spec = _hardened(template["spec"])
    spec["containers"] = [
        _worker(app, version, container) if container["name"] == names.WORKER else container
        for container in spec["containers"]
    ]
    grace = max(
        spec.get("terminationGracePeriodSeconds") or 0,
        _number(worker_of(spec), "EVERSTEP_GRACE_SECONDS", _DEFAULT_GRACE) + _MARGIN,
    )
    spec["terminationGracePeriodSeconds"] = grace
    return {"metadata": _metadata(app, version, template), "spec": spec}


def _metadata(app: DurableApp, version: str, template: Mapping[str, Any]) -> dict[str, Any]:
    user = template.get("metadata") or {}
    ours = names.labels(app.name, version, names.WORKER)
    note = {names.ANNOTATION_VERSION: version}
    return {
        **user,
        "labels": {**(user.get("labels") or {}), **ours},
        "annotations": {**(user.get("annotations") or {}), **note},
    }


def _hardened(user: Mapping[str, Any]) -> dict[str, Any]:
    """The pod under the restricted profile, each of its containers too."""
    spec = under(user, _POD_DEFAULTS)
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            spec[kind] = [under(container, _CONTAINER_DEFAULTS) for container in spec[kind]]
    return with_scratch(spec)


def with_scratch(spec: dict[str, Any]) -> dict[str, Any]:
    """A writable /tmp for the worker: its root file system is read-only by default."""
    worker = worker_of(spec)
    mounts = worker.get("volumeMounts") or []
    if any(mount.get("mountPath", "").rstrip("/") == "/tmp" for mount in mounts):  # noqa: S108
        return spec
    scratch = {"name": "everstep-tmp", "mountPath": "/tmp"}  # noqa: S108
    mounted = {**worker, "volumeMounts": [*mounts, scratch]}
    return {
        **spec,
        "containers": [mounted if c is worker else c for c in spec["containers"]],
        "volumes": [
            *(spec.get("volumes") or []),
            {"name": "everstep-tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    }


def _worker(app: DurableApp, version: str, container: Mapping[str, Any]) -> dict[str, Any]:
    port = _number(container, "EVERSTEP_PORT", _DEFAULT_PORT)
    ports = container.get("ports") or []
    if not any(p.get("name") == PORT_NAME for p in ports):
        ports = [*ports, {"name": PORT_NAME, "containerPort": port, "protocol": "TCP"}]
    source = app.spec.database.url_from.secret_key_ref
    return under(
        {**container, "ports": ports, "env": environment(app, version, source, container)},
        {
            "livenessProbe": _probe("/livez", period=10, failures=3),
            "readinessProbe": _probe("/readyz", period=5, failures=2),
            # What a worker says before it ends is then in the pod's status, and in ours.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            # A first start imports the user's code and may wait for the database.
            "startupProbe": _probe("/livez", period=2, failures=60),
        },
    )


def environment(
    app: DurableApp, version: str, source: SecretKey, container: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The variables of the contract first, so that the user's own may refer to them."""
    ours: list[dict[str, Any]] = [
        {
            "name": "EVERSTEP_DATABASE_URL",
            "valueFrom": {"secretKeyRef": {"name": source.name, "key": source.key}},
        },
        {"name": "EVERSTEP_SCHEMA", "value": app.spec.database.schema},
        {"name": "EVERSTEP_APP", "value": app.name},
        {"name": "EVERSTEP_VERSION", "value": version},
        {"name": "EVERSTEP_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    taken = {variable["name"] for variable in ours}
    return ours + [v for v in container.get("env") or [] if v["name"] not in taken]


def worker_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in spec["containers"] if c["name"] == names.WORKER)
    return found


def under(user: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The user's object with defaults filled in below, object by object.

    A probe or list the user wrote is taken whole: half of one and half of another is neither.
    """
    merged = dict(user)
    for key, value in defaults.items():
        if key not in merged or merged[key] is None:
            merged[key] = value
        elif key == "securityContext":
            merged[key] = under(merged[key], value)
    return merged


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT_NAME},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _number(container: Mapping[str, Any], variable: str, default: int) -> int:
    """A variable the user set in plain text, where it counts for the pod around it."""
    for item in container.get("env") or []:
        if item["name"] == variable and str(item.get("value", "")).isdigit():
            return int(item["value"])
    return default
