"""The orders example installed in the cluster: its database, its DurableApp, and what SQL says.

Asked as a person would: kubectl for the objects, SQL for the workflows, the charges and the books.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import yaml
from e2e import diagnosis
from e2e.kube import TOP, Cluster, CommandFailedError
from e2e.servers import Postgres
from e2e.waiting import eventually
from psycopg.rows import dict_row

MANIFEST = TOP / "manifests/examples/orders.yaml"
IMAGES = "localhost/everstep-orders"
_FEED = Path(__file__).with_name("feed.py")
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True, slots=True)
class Shop:
    cluster: Cluster
    url: str
    """Connection string of the application's own database."""
    namespace: str
    name: str = "orders"
    _connections: list[psycopg.Connection[dict[str, Any]]] = field(default_factory=list)

    # -- the objects -----------------------------------------------------------------------------

    def kubectl(self, *args: str, stdin: str | None = None, limit: float = 180) -> str:
        return self.cluster.kubectl("-n", self.namespace, *args, stdin=stdin, limit=limit)

    def items(self, *args: str) -> list[Any]:
        return self.cluster.items("-n", self.namespace, *args)

    def app(self) -> Any:
        """The DurableApp as the API server has it."""
        return self.cluster.get("-n", self.namespace, "dapp", self.name)

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the DurableApp; empty until the operator wrote it for this generation."""
        app = self.app()
        status = app.get("status", {})
        if status.get("observedGeneration") != app["metadata"]["generation"]:
            return {}
        found = (c for c in status.get("conditions", ()) if c["type"] == kind)
        return next(found, {})

    def wait_for(
        self, kind: str, status: str, *, reason: str | None = None, within: float = 120
    ) -> dict[str, Any]:
        """The condition, once it has this status (and reason) for the newest generation."""
        return eventually(
            lambda: self.condition(kind),
            lambda c: c.get("status") == status and reason in (None, c.get("reason")),
            within=within,
            what=f"condition {kind}={status} {reason or ''}",
        )

    def pods(self, version: str | None = None) -> list[str]:
        """Names of the worker pods that run and are not on their way out."""
        selector = f"everstep.dev/app={self.name},app.kubernetes.io/component=worker"
        if version:
            selector += f",everstep.dev/version={version}"
        return [
            pod["metadata"]["name"]
            for pod in self.items("pods", "-l", selector)
            if pod["status"].get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def deployments(self) -> dict[str, int]:
        """Replicas wanted, by version."""
        found = self.items("deployments", "-l", f"everstep.dev/app={self.name}")
        return {
            d["metadata"]["annotations"]["everstep.dev/version"]: d["spec"]["replicas"]
            for d in found
        }

    def patch(self, patch: dict[str, Any]) -> None:
        self.kubectl("patch", "dapp", self.name, "--type=merge", "-p", json.dumps(patch))

    def set_image(self, tag: str) -> None:
        """What a release does: the worker's image, and nothing else."""
        path = "/spec/template/spec/containers/0/image"
        patch = [{"op": "replace", "path": path, "value": f"{IMAGES}:{tag}"}]
        self.kubectl("patch", "dapp", self.name, "--type=json", "-p", json.dumps(patch))

    # -- the workflows ---------------------------------------------------------------------------

    def start(self, prefix: str, count: int) -> None:
        """Start orders `<prefix>-1 … <prefix>-count` from inside a worker pod."""
        pod = self.pods()[0]
        self.kubectl(
            *("exec", "-i", pod, "-c", "worker", "--"),
            *("/opt/everstep/bin/python", "-", prefix, str(count)),
            stdin=_FEED.read_text(),
        )

    def sql(self, query: LiteralString, *values: object) -> list[dict[str, Any]]:
        if not self._connections:
            self._connections.append(
                psycopg.connect(self.url, autocommit=True, row_factory=dict_row)
            )
        return self._connections[0].execute(query, values).fetchall()

    def number(self, query: LiteralString, *values: object) -> int:
        """The only value of the only row."""
        (row,) = self.sql(query, *values)
        (value,) = row.values()
        return int(value)

    def finished(self, prefix: str) -> int:
        return self.number(
            "SELECT count(*) FROM everstep.workflows WHERE status = 'succeeded' AND id LIKE %s",
            f"{prefix}-%",
        )

    def wait_finished(self, prefix: str, count: int, *, within: float) -> None:
        eventually(
            lambda: self.sql(
                "SELECT status, count(*) FROM everstep.workflows WHERE id LIKE %s GROUP BY 1",
                f"{prefix}-%",
            ),
            lambda rows: rows == [{"status": "succeeded", "count": count}],
            within=within,
            what=f"all {count} workflows {prefix}-… succeeded",
        )

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextmanager
def shop(cluster: Cluster, postgres: Postgres, namespace: str) -> Iterator[Shop]:
    """A namespace of its own with a database and its Secret; no DurableApp yet."""
    created = Shop(cluster, postgres.create(namespace.replace("-", "_")), namespace)
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": _RESTRICTED},
        },
        secret(created),
    )
    try:
        yield created
    finally:
        created.close()
        cluster.kubectl("delete", "namespace", namespace, "--wait=true", limit=180)


def secret(shop: Shop, name: str = "orders-db") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": shop.namespace},
        "stringData": {"url": shop.url},
    }


def durable_app(**changes: Any) -> dict[str, Any]:
    """The example manifest as an object, with fields of its spec replaced."""
    body: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return {**body, "spec": {**body["spec"], **changes}}


def worker_template(tag: str, **environment: str) -> dict[str, Any]:
    """The example's pod template with another image, and variables for the worker."""
    template: dict[str, Any] = durable_app()["spec"]["template"]
    (worker,) = template["spec"]["containers"]
    changed = {
        "image": f"{IMAGES}:{tag}",
        "imagePullPolicy": "Never",
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    return {"spec": {"containers": [{**worker, **changed}]}}


def install(shop: Shop, **changes: Any) -> None:
    """Apply the example's manifest with some fields changed, and wait until it is Ready."""
    shop.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(durable_app(**changes)))
    try:
        shop.kubectl("wait", f"dapp/{shop.name}", "--for=condition=Ready", "--timeout=150s")
    except CommandFailedError:
        print(diagnosis.of(shop.cluster))  # now: a failing fixture removes its namespace at once
        raise
