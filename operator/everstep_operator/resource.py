"""DurableApp: the one object a user writes, and the status the operator writes back.

Pure. These dataclasses are the source of the CRD (`crd.py`), of the parser and of the reference
page; nothing else in the operator spells a field name of the API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from everstep_operator import names
from everstep_operator.schema import InvalidError, about, from_json
from everstep_operator.template import RULES, SCHEMA

_DAY = timedelta(days=1)
_NAME = {"minLength": 1, "maxLength": 253}


@dataclass(frozen=True, slots=True)
class SecretKey:
    name: str = field(metadata=about("Name of a Secret in the same namespace.", **_NAME))
    key: str = field(metadata=about("Key in the Secret.", **_NAME))


@dataclass(frozen=True, slots=True)
class UrlSource:
    secret_key_ref: SecretKey = field(metadata=about("Where the connection string is kept."))


@dataclass(frozen=True, slots=True)
class Database:
    url_from: UrlSource = field(metadata=about("Connection string of workers and operator."))
    schema: str = field(
        default="everstep",
        metadata=about(
            "Schema that holds the engine's tables.",
            pattern="^[a-z_][a-z0-9_]{0,40}$",
            rules=(("self == oldSelf", "database.schema cannot be changed: workflows live in it"),),
        ),
    )


@dataclass(frozen=True, slots=True)
class Migrations:
    path: str | None = field(
        default=None,
        metadata=about(
            "Folder in the image with NNNN_name.sql files; without it only the engine's own"
            " schema is migrated.",
            pattern="^/.*",
            maxLength=1024,
        ),
    )
    url_from: UrlSource | None = field(
        default=None,
        metadata=about("Connection string of the migration Job; default: database.urlFrom."),
    )
    backoff_limit: int = field(
        default=3, metadata=about("Retries after passing faults.", minimum=0, maximum=20)
    )
    deadline_seconds: int = field(
        default=3600, metadata=about("Time one migration Job may take.", minimum=10)
    )


@dataclass(frozen=True, slots=True)
class Rollout:
    progress_deadline_seconds: int = field(
        default=600,
        metadata=about("When a rollout that does not get on is called stalled.", minimum=10),
    )


@dataclass(frozen=True, slots=True)
class Drain:
    scale_down_delay: timedelta = field(
        default=timedelta(minutes=5),
        metadata=about("From drained to zero replicas."),
    )
    delete_delay: timedelta = field(
        default=_DAY,
        metadata=about("From drained to the end of the Deployment; until then it can come back."),
    )


@dataclass(frozen=True, slots=True)
class Spec:
    template: Mapping[str, Any] = field(
        metadata=about(
            f"Pod template; its container '{names.WORKER}' runs `everstep worker module:app`.",
            rules=RULES,
            **SCHEMA,
        )
    )
    database: Database = field(metadata=about("Where the workflows live."))
    replicas: int = field(
        default=1,
        metadata=about("Worker pods of the current version.", minimum=0, maximum=10000),
    )
    version: str | None = field(
        default=None,
        metadata=about(
            "Code version; default: the tag of the worker's image, or a hash where the tag says"
            " nothing.",
            pattern=names.VERSION_PATTERN,
        ),
    )
    migrations: Migrations = field(
        default=Migrations(), metadata=about("Schema migrations before each rollout.")
    )
    rollout: Rollout = field(default=Rollout(), metadata=about("How new versions come in."))
    drain: Drain = field(default=Drain(), metadata=about("How old versions go."))
    suspend: bool = field(
        default=False,
        metadata=about("Observe and report only: nothing but the status is written."),
    )


@dataclass(frozen=True, slots=True)
class DurableApp:
    """One object as read from the API server."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Spec
    status: Mapping[str, Any]
    annotations: Mapping[str, str]
    created_at: datetime
    deleting: bool = False

    @property
    def worker(self) -> Mapping[str, Any]:
        """The template's worker container; `parse` made sure that it is there."""
        containers = self.spec.template["spec"]["containers"]
        return next(c for c in containers if c.get("name") == names.WORKER)

    @property
    def version(self) -> str:
        return names.version_of(self.spec.version, self.worker)


def parse(body: Mapping[str, Any]) -> DurableApp:
    """The DurableApp of an API object; `InvalidError` where an older CRD let something through."""
    meta = body["metadata"]
    spec = from_json(Spec, body.get("spec", {}), "spec")
    containers = (spec.template.get("spec") or {}).get("containers") or ()
    if not any(c.get("name") == names.WORKER and c.get("image") for c in containers):
        raise InvalidError(
            "spec.template.spec.containers", f"needs a container '{names.WORKER}' with an image"
        )
    return DurableApp(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        spec=spec,
        status=body.get("status") or {},
        annotations=meta.get("annotations") or {},
        deleting="deletionTimestamp" in meta,
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
    )
