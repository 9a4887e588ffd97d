"""Names, labels and version ids: every text by which the operator finds its own objects again.

Pure. A name is a function of what the user wrote and of nothing else, so that a restarted
operator finds what its predecessor made. The canonical form that is hashed is ours (sorted keys,
no spaces): a library that serialises differently tomorrow cannot rename a running Deployment.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

GROUP = "everstep.dev"
API_VERSION = "v1alpha1"
KIND = "DurableApp"
PLURAL = "durableapps"
WORKER = "worker"
MANAGER = "everstep-operator"

LABEL_APP = f"{GROUP}/app"
LABEL_VERSION = f"{GROUP}/version"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_VERSION = f"{GROUP}/version"
ANNOTATION_APPLIED = f"{GROUP}/applied"
ANNOTATION_ACCEPT_DATABASE = f"{GROUP}/accept-database"

VERSION_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
MAX_APP_NAME = 40
_MAX_DEPLOYMENT_NAME = 54
_MAX_VERSION = 63


def fingerprint(value: object, length: int = 10) -> str:
    """A hash of the canonical form of a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def version_of(explicit: str | None, worker: Mapping[str, Any]) -> str:
    """The version a DurableApp asks for: what it says, else what the worker's image says."""
    if explicit:
        return explicit
    image = str(worker.get("image", ""))
    reference, _, digest = image.partition("@")
    last = reference.rsplit("/", 1)[-1]
    tag = last.partition(":")[2]
    if tag and tag != "latest":
        return _as_version(tag)
    if digest:
        return "sha-" + digest.rpartition(":")[2][:12]
    # `latest` names no code. The same text is at least the same version after a restart.
    return "hash-" + fingerprint([image, worker.get("command"), worker.get("args")])


def _as_version(tag: str) -> str:
    """A tag may be longer than a label, or begin and end with a sign that a label may not."""
    if re.match(VERSION_PATTERN, tag):
        return tag
    stem = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", tag)[: _MAX_VERSION - 11]
    return "-".join(part for part in (stem, fingerprint(tag)) if part)


def version_label(version: str) -> str:
    """The version as a label value; the annotation of the same name carries it unchanged."""
    return _as_version(version)


def deployment(app: str, version: str) -> str:
    """`<app>-<slug>-<hash>`: readable, and different for versions that differ only in signs."""
    slug = re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")
    slug = slug[: max(0, _MAX_DEPLOYMENT_NAME - len(app) - 7)].strip("-")
    return "-".join(part for part in (app, slug, fingerprint(version, 5)) if part)


def revision(app: str, version: str, template: Mapping[str, Any]) -> str:
    """A stored template is immutable in Kubernetes, so another template needs another name."""
    return f"{deployment(app, version)}-{fingerprint(template, 8)}"


def migration_job(app: str, image: str, command: Sequence[str], schema: str) -> str:
    """The same files run by the same command are the same Job: it is never patched."""
    return f"{app}-migrate-{fingerprint([image, list(command), schema], 8)}"


def selector(app: str, version: str) -> dict[str, str]:
    """What a worker Deployment selects; never changed, because Kubernetes refuses it."""
    return {
        LABEL_APP: app,
        LABEL_VERSION: version_label(version),
        LABEL_COMPONENT: WORKER,
    }


def selector_text(app: str, version: str) -> str:
    """The selector as the scale subresource wants it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(app, version).items()))


def owned_text(app: str) -> str:
    """Selects what the operator made for an app: people label their own objects with its name."""
    return f"{LABEL_APP}={app},{LABEL_MANAGED_BY}={MANAGER}"


def labels(app: str, version: str, component: str) -> dict[str, str]:
    """The labels of everything applied."""
    return {
        LABEL_APP: app,
        LABEL_VERSION: version_label(version),
        LABEL_COMPONENT: component,
        LABEL_MANAGED_BY: MANAGER,
    }
