"""Apply: the only writer, to the cluster and to the database.

It carries out a Plan in order. What cannot succeed by repetition comes back as a `Failure` for
the report; a passing fault is raised, and the loop tries again later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import psycopg

from everstep_operator.database import Databases, RoutingMovedError
from everstep_operator.kube import (
    APPS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    REVISIONS,
    Kind,
    Kube,
    KubeError,
)
from everstep_operator.observe import Memory
from everstep_operator.planning.actions import (
    Action,
    ApplyDeployment,
    CreateJob,
    DeclareDead,
    DeleteDeployment,
    DeleteJob,
    DeleteRevision,
    MarkDrained,
    RetireVersion,
    ScaleDeployment,
    SetRouting,
    StoreRevision,
)
from everstep_operator.resource import DurableApp


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that the cluster or the database refused."""

    action: Action
    message: str


@dataclass(slots=True)
class Applier:
    kube: Kube
    databases: Databases
    memory: Memory

    async def apply(
        self, key: str, app: DurableApp, actions: tuple[Action, ...]
    ) -> tuple[Failure, ...]:
        failures: list[Failure] = []
        for action in actions:
            try:
                await self._do(key, app, action)
            except KubeError as error:
                # Also 500: that is how the API server tells of an admission webhook it cannot reach.
                if error.passing:
                    raise
                failures.append(Failure(action, str(error)))
            except (psycopg.Error, TimeoutError) as error:
                failures.append(Failure(action, str(error).strip() or "no answer in time"))
        return tuple(failures)

    async def _do(self, key: str, app: DurableApp, action: Action) -> None:
        space, schema = app.namespace, app.spec.database.schema
        match action:
            case CreateJob(body):
                await self._create(JOBS, body)
            case StoreRevision(body):
                await self._create(REVISIONS, body)
            case ApplyDeployment(_, body):
                self._remember(await self.kube.apply(DEPLOYMENTS, body))
            case ScaleDeployment(name, replicas, _):
                patch = {"spec": {"replicas": replicas}}
                self._remember(await self.kube.merge(DEPLOYMENTS, space, name, patch))
            case DeleteDeployment(name, _):
                await self._delete(DEPLOYMENTS, space, name)
            case DeleteJob(name, _):
                await self._delete(JOBS, space, name)
            case DeleteRevision(name, _):
                await self._delete(REVISIONS, space, name)
            case SetRouting() | MarkDrained() | RetireVersion() | DeclareDead():
                await self._tell(key, schema, action)
            case _:
                assert_never(action)

    async def _tell(
        self,
        key: str,
        schema: str,
        action: SetRouting | MarkDrained | RetireVersion | DeclareDead,
    ) -> None:
        match action:
            case SetRouting(version, expected):
                try:
                    await self.databases.set_routing(key, schema, version, expected)
                except RoutingMovedError:
                    return  # somebody else decided in between: look again before deciding
            case MarkDrained(version):
                await self.databases.mark_drained(key, schema, version)
            case RetireVersion(version):
                await self.databases.retire_version(key, schema, version)
            case DeclareDead(pod):
                await self.databases.declare_dead(key, schema, pod)
            case _:
                assert_never(action)

    def _remember(self, body: Mapping[str, Any]) -> None:
        self.memory.generations[body["metadata"]["uid"]] = body["metadata"]["generation"]

    async def _create(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """What is named after its content and is there already is what we want."""
        try:
            await self.kube.create(kind, body)
        except KubeError as error:
            if not error.conflict:
                raise

    async def _delete(self, kind: Kind, namespace: str, name: str) -> None:
        try:
            await self.kube.delete(kind, namespace, name)
        except KubeError as error:
            if not error.gone:
                raise

    async def write_status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Only if it says something new; returns whether it did."""
        if status == (body.get("status") or {}):
            return False
        meta = {key: body["metadata"][key] for key in ("name", "namespace")}
        wanted = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": meta}
        await self.kube.apply(APPS, {**wanted, "status": status}, part="status")
        return True

    async def post(self, event: Mapping[str, Any]) -> None:
        """The same event again is a higher count, not another object."""
        name, space = event["metadata"]["name"], event["metadata"]["namespace"]
        count = self.memory.count(name)
        try:
            await self.kube.create(EVENTS, event)
        except KubeError as error:
            if not error.conflict:
                raise
            seen = {"count": max(count, 2), "lastTimestamp": event["lastTimestamp"]}
            await self.kube.merge(EVENTS, space, name, seen)
