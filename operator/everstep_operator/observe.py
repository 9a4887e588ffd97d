"""Observe: one DurableApp's objects in the cluster and its database, as one frozen value.

Reads only. What a single look cannot show (a pod that was there and is not, a Deployment that
somebody changed) comes from `Memory`, which a restart may lose without harm.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from everstep_operator import names
from everstep_operator.database import Databases
from everstep_operator.kube import (
    DEPLOYMENTS,
    JOBS,
    PODS,
    REVISIONS,
    SECRETS,
    Kind,
    Kube,
    KubeError,
)
from everstep_operator.observed import (
    Database,
    Deployment,
    Job,
    JobState,
    Known,
    Observed,
    Revision,
    Unknown,
)
from everstep_operator.pods import moment, pod, runs
from everstep_operator.reasons import Reason
from everstep_operator.resource import DurableApp, SecretKey
from everstep_operator.trust import trusted

_EVENTS = 1000


@dataclass(slots=True)
class Memory:
    """What this process saw earlier."""

    generations: dict[str, int] = field(default_factory=dict)
    """By uid of a Deployment: its generation after our own last write."""
    pods: dict[str, set[str]] = field(default_factory=dict)
    """By key of an app: names of worker pods that were seen and may still hold leases."""
    events: dict[str, int] = field(default_factory=dict)
    """By name of an Event: how often it happened."""

    def count(self, event: str) -> int:
        """One more of this Event; the one told longest ago is forgotten when there are too many."""
        count = self.events.pop(event, 0) + 1
        self.events[event] = count
        if len(self.events) > _EVENTS:
            del self.events[next(iter(self.events))]
        return count

    def forget(self, key: str) -> None:
        self.pods.pop(key, None)


@dataclass(slots=True)
class Observer:
    kube: Kube
    databases: Databases
    memory: Memory

    async def observe(self, key: str, app: DurableApp) -> Observed:
        deployments = await self._owned(DEPLOYMENTS, app)
        jobs = await self._owned(JOBS, app)
        revisions = await self._owned(REVISIONS, app)
        pods = await self.kube.items(PODS, app.namespace, names.owned_text(app.name))
        # The database last: a Job that was complete above has left its traces below.
        database = trusted(app, await self._database(key, app))
        return Observed(
            database=database,
            deployments=tuple(self._deployment(body) for body in deployments),
            jobs=tuple(_job(body) for body in jobs),
            revisions=tuple(_revision(body) for body in revisions),
            pods=tuple(pod(body) for body in pods),
            gone_pods=self._gone(key, pods, database),
        )

    async def _owned(self, kind: Kind, app: DurableApp) -> list[dict[str, Any]]:
        found = await self.kube.items(kind, app.namespace, names.owned_text(app.name))
        return [body for body in found if ours(app, body["metadata"])]

    async def _database(self, key: str, app: DurableApp) -> Database:
        source = app.spec.database.url_from.secret_key_ref
        try:
            secret = await self.kube.get(SECRETS, app.namespace, source.name)
        except KubeError as error:
            if error.status not in (403, 404):
                raise
            return _no_secret(source, error)
        url = _value(secret, source.key)
        if not url:
            keys = ", ".join(sorted(secret.get("data") or {})) or "none"
            message = f"Secret {source.name} has no text under {source.key!r} (its keys: {keys})"
            return Unknown(Reason.SECRET_MISSING, message)
        schema = app.spec.database.schema
        other = self.databases.claim(key, url, schema, app.created_at)
        if other is not None:
            message = (
                f"DurableApp {other} has schema {schema} of this database: give this one another"
                " database.schema or another database (a DurableApp is all that one schema holds)"
            )
            return Unknown(Reason.SCHEMA_TAKEN, message)
        return await self.databases.read(key, url, schema)

    def _deployment(self, body: Mapping[str, Any]) -> Deployment:
        meta = body["metadata"]
        if meta["uid"] not in self.memory.generations and not _foreign(meta):
            # Seen for the first time, after a restart: as its fields say, only we wrote it.
            self.memory.generations[meta["uid"]] = meta["generation"]
        known = self.memory.generations.get(meta["uid"])
        return replace(deployment(body), settled=known == meta["generation"])

    def _gone(self, key: str, pods: list[dict[str, Any]], database: Database) -> frozenset[str]:
        """Level, with a memory: a pod seen once is remembered until SQL knows it is dead.

        Only pods that this process saw: a worker on somebody's laptop is not ours to declare.
        """
        ours = [p for p in pods if p["metadata"]["labels"].get(names.LABEL_COMPONENT) == "worker"]
        running = {p["metadata"]["name"] for p in ours if runs(p)}
        seen = self.memory.pods.setdefault(key, set())
        seen |= {p["metadata"]["name"] for p in ours}
        gone = seen - running
        if isinstance(database, Known):
            alive = {worker.pod for worker in database.workers if worker.state != "dead"}
            seen -= gone - alive
            gone &= alive
        return frozenset(gone)


def _no_secret(source: SecretKey, error: KubeError) -> Unknown:
    message = (
        f"Secret {source.name} does not exist: create it in this namespace, with the connection"
        f" string under the key {source.key!r}"
        if error.gone
        else f"the operator may not read Secret {source.name}: {error}"
    )
    return Unknown(Reason.SECRET_MISSING, message)


def _value(secret: Mapping[str, Any], key: str) -> str:
    try:
        return base64.b64decode(secret["data"][key]).decode().strip()
    except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
        return ""


def ours(app: DurableApp, meta: Mapping[str, Any]) -> bool:
    """Not what another controller has, such as a DurableApp of this name that was deleted.

    Without a controller it is ours: `kubectl delete --cascade=orphan` leaves objects like that.
    """
    owners = meta.get("ownerReferences") or ()
    return all(owner["uid"] == app.uid for owner in owners if owner.get("controller"))


def deployment(body: Mapping[str, Any]) -> Deployment:
    meta, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    fresh = status.get("observedGeneration", 0) >= meta["generation"]
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    # Old and new pods together count as ready in Kubernetes; unavailable ones tell them apart.
    settled = fresh and status.get("replicas", 0) == updated
    return Deployment(
        name=meta["name"],
        version=_version(meta),
        replicas=spec.get("replicas", 1),
        ready=min(updated, ready) if settled else 0,
        available=ready,
        present=status.get("replicas", 0),
        created_at=moment(meta.get("creationTimestamp")),
        applied=(meta.get("annotations") or {}).get(names.ANNOTATION_APPLIED),
        failure=_deployment_failure(status),
    )


def _foreign(meta: Mapping[str, Any]) -> bool:
    """Whether somebody else owns a field of the spec."""
    return any(
        entry.get("manager") != names.MANAGER
        and not entry.get("subresource")
        and "f:spec" in (entry.get("fieldsV1") or {})
        for entry in meta.get("managedFields") or ()
    )


def _deployment_failure(status: Mapping[str, Any]) -> str | None:
    for condition in status.get("conditions") or ():
        kind, value = condition["type"], condition["status"]
        if (kind, value) in (("ReplicaFailure", "True"), ("Progressing", "False")):
            return f"{condition.get('reason')}: {condition.get('message')}"
    return None


def _job(body: Mapping[str, Any]) -> Job:
    meta = body["metadata"]
    state, failure, ended = JobState.RUNNING, None, None
    for condition in (body.get("status") or {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            state = JobState(condition["type"])
            failure = f"{condition.get('reason')}: {condition.get('message')}"
            ended = moment(condition.get("lastTransitionTime"))
    return Job(
        name=meta["name"],
        version=_version(meta),
        state=state,
        created_at=moment(meta.get("creationTimestamp")),
        finished_at=ended,
        failure=failure,
    )


def _revision(body: Mapping[str, Any]) -> Revision:
    return Revision(
        name=body["metadata"]["name"],
        version=_version(body["metadata"]),
        number=body["revision"],
        template=body["data"]["template"],
    )


def _version(meta: Mapping[str, Any]) -> str:
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    found: str = annotations.get(names.ANNOTATION_VERSION) or labels.get(names.LABEL_VERSION, "")
    return found
