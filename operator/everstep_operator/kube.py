"""The Kubernetes API as the operator speaks it: six verbs over plain JSON objects.

A thin layer over `kubernetes.aio`, which brings authentication, token rotation and TLS. It keeps
objects as the dictionaries they are on the wire, and counts what it writes.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from everstep_operator import names

_TIMEOUT = 20.0
_PASSING = frozenset(
    {
        0,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class KubeError(Exception):
    """An answer that is no success; `status` 0 means that there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def gone(self) -> bool:
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        return self.status == HTTPStatus.CONFLICT

    @property
    def passing(self) -> bool:
        """Nobody refused anything: no answer, too busy, or the object moved in between."""
        return self.status in _PASSING


@dataclass(frozen=True, slots=True)
class Kind:
    """Where objects of a kind live."""

    prefix: str
    plural: str

    def path(self, namespace: str | None, name: str = "", part: str = "") -> str:
        parts = [self.prefix]
        parts += ["namespaces", namespace] if namespace else []
        return "/".join([*parts, self.plural, *([name] if name else []), *([part] if part else [])])


APPS = Kind(f"/apis/{names.GROUP}/{names.API_VERSION}", names.PLURAL)
DEPLOYMENTS = Kind("/apis/apps/v1", "deployments")
REVISIONS = Kind("/apis/apps/v1", "controllerrevisions")
JOBS = Kind("/apis/batch/v1", "jobs")
PODS = Kind("/api/v1", "pods")
SECRETS = Kind("/api/v1", "secrets")
EVENTS = Kind("/api/v1", "events")
LEASES = Kind("/apis/coordination.k8s.io/v1", "leases")


async def connect(kubeconfig: str | None = None) -> ApiClient:
    """A client for the cluster this process runs in, else for a kubeconfig."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=configuration
        )
    client = ApiClient(configuration=configuration)
    client.user_agent = names.MANAGER
    return client


@dataclass(slots=True)
class Kube:
    """One connection pool to the API server."""

    client: ApiClient
    writes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Write requests sent, by verb and plural."""

    async def close(self) -> None:
        await self.client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        return await self._send("GET", kind.path(namespace, name))

    async def items(
        self, kind: Kind, namespace: str | None, selector: str = ""
    ) -> list[dict[str, Any]]:
        query = [("labelSelector", selector)] if selector else []
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self._send(
                "GET",
                kind.path(namespace),
                query=[*query, ("limit", "500"), *([("continue", token)] if token else [])],
            )
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    async def ask(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """A review: sent like an object, but nothing is stored."""
        return await self._send("POST", kind.path(None), body=body)

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._write("POST", kind, kind.path(body["metadata"]["namespace"]), body)

    async def apply(self, kind: Kind, body: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        """Server-side apply of the whole object as its owner."""
        meta = body["metadata"]
        return await self._write(
            "PATCH",
            kind,
            kind.path(meta["namespace"], meta["name"], part),
            body,
            content_type="application/apply-patch+yaml",
            query=[("fieldManager", names.MANAGER), ("force", "true")],
        )

    async def merge(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        return await self._write(
            "PATCH",
            kind,
            kind.path(namespace, name),
            body,
            content_type="application/merge-patch+json",
            query=[("fieldManager", names.MANAGER)],
        )

    async def replace(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        meta = body["metadata"]
        return await self._write("PUT", kind, kind.path(meta["namespace"], meta["name"]), body)

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        body = {"propagationPolicy": "Background"}
        await self._write("DELETE", kind, kind.path(namespace, name), body)

    async def _write(
        self,
        verb: str,
        kind: Kind,
        path: str,
        body: Mapping[str, Any],
        *,
        content_type: str = "application/json",
        query: list[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        self.writes[verb, kind.plural] += 1
        return await self._send(verb, path, body=body, content_type=content_type, query=query)

    async def _send(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        query: list[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        try:
            request = await self.client.param_serialize(
                verb,
                path,
                query_params=query or [],
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self.client.call_api(*request, _request_timeout=_TIMEOUT)
            text = await answer.read()  # type: ignore[no-untyped-call]
        except OSError as error:  # aiohttp's connection errors and TimeoutError
            raise KubeError(0, f"API server: {error or type(error).__name__}") from error
        return _decode(answer.status, text)


def _decode(status: int, text: bytes) -> dict[str, Any]:
    try:
        decoded: dict[str, Any] = json.loads(text)
    except ValueError:
        decoded = {"message": text.decode(errors="replace")[:500]}
    if status >= HTTPStatus.BAD_REQUEST:
        raise KubeError(status, str(decoded.get("message") or HTTPStatus(status).phrase))
    return decoded
