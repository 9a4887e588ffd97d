"""The operator against a real API server and a real Postgres; the test plays the controllers."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import yaml
from e2e.bare_api import BareApi, bare_api
from e2e.kube import CommandFailedError
from e2e.servers import Postgres, postgres

from everstep.migrations.migrate import migrate
from everstep_operator import names
from everstep_operator.__main__ import crd_text
from everstep_operator.build.deployment import deployment
from everstep_operator.build.job import job
from everstep_operator.kube import Kube, connect
from everstep_operator.reconcile import Reconciler
from everstep_operator.resource import parse
from everstep_operator.settings import Settings

pytestmark = pytest.mark.e2e

KEY = "default/shop"
_MADE = {"creationTimestamp": "2026-01-01T00:00:00Z"}
AGENT = "everstep-operator-test"


@pytest.fixture(scope="module")
def api() -> Iterator[BareApi]:
    with bare_api() as running:
        running.kubectl("apply", "--server-side", "-f", "-", stdin=crd_text())
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres("127.0.0.1") as running:
        yield running


def durable_app(image: str = "localhost/shop:v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "everstep.dev/v1alpha1",
        "kind": "DurableApp",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "database": {"urlFrom": {"secretKeyRef": {"name": "shop-db", "key": "url"}}},
            "drain": {"scaleDownDelay": "0s", "deleteDelay": "0s"},
            "template": {
                "spec": {
                    "containers": [{"name": "worker", "image": image, "args": ["worker", "a:b"]}]
                }
            },
            **spec,
        },
    }


@dataclass
class Line:
    """One DurableApp with its database, looked at step by step."""

    api: BareApi
    url: str
    reconciler: Reconciler

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.reconciler.once(KEY)

    def app(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("dapp", "shop", "-n", "default")
        return found

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = {c["type"]: c for c in self.app()["status"]["conditions"]}[kind]
        return found["status"], found["reason"], found["message"]

    def deployments(self) -> dict[str, int]:
        found = self.api.get("deployments", "-n", "default")["items"]
        versions = names.ANNOTATION_VERSION
        return {d["metadata"]["annotations"][versions]: d["spec"]["replicas"] for d in found}

    def finish_job(self, condition: str = "Complete") -> None:
        """What the Job's pod would do is done for real; what Kubernetes would say is played."""
        if condition == "Complete":
            migrate(self.url, schema="everstep")
        for played in self.api.get("jobs", "-n", "default")["items"]:
            if played.get("status", {}).get("conditions"):
                continue
            now = "2026-01-01T00:00:00Z"
            criteria = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[condition]
            status: dict[str, Any] = {
                "startTime": now,
                "conditions": [
                    {"type": kind, "status": "True", "reason": "Test", "message": "played"}
                    for kind in (criteria, condition)
                ],
            }
            if condition == "Complete":
                status |= {"completionTime": now, "succeeded": 1}
            self.api.status("job", played["metadata"]["name"], status)

    def run_pods(self, version: str) -> None:
        """The Deployment is ready and its workers have registered in SQL."""
        name = names.deployment("shop", version)
        body = self.api.get("deployment", name, "-n", "default")
        count = body["spec"]["replicas"]
        self.api.status(
            "deployment",
            name,
            {
                "observedGeneration": body["metadata"]["generation"],
                **dict.fromkeys(
                    ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count
                ),
            },
        )
        self.register(version, count)

    def register(self, version: str, count: int) -> None:
        self.sql("DELETE FROM everstep.worker WHERE version = %s", version)
        self.sql(
            "INSERT INTO everstep.version (version, created_at) VALUES (%s, now())"
            " ON CONFLICT DO NOTHING",
            version,
        )
        for number in range(count):
            self.sql(
                "INSERT INTO everstep.worker (id, pod, version, slots, started_at, lease_until)"
                " VALUES (%s, %s, %s, 1, now(), now() + interval '1 hour')",
                uuid.uuid4(),
                f"{names.deployment('shop', version)}-{number}",
                version,
            )

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    async def serve(self, version: str) -> None:
        """From nothing or an older version to this one, current and at rest."""
        await self.look(2)
        self.finish_job()
        await self.look()
        self.run_pods(version)
        await self.look(3)
        assert self.app()["status"]["currentVersion"] == version


@pytest.fixture
async def line(
    api: BareApi, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    url = server.create("shop")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shop-db", "namespace": "default"},
        "stringData": {"url": url},
    }
    api.apply(secret, durable_app())
    client = await connect(str(api.kubeconfig))
    client.user_agent = AGENT
    reconciler = Reconciler(Settings(), Kube(client))
    yield Line(api, url, reconciler)
    await reconciler.databases.close()
    await reconciler.kube.close()
    for kind in ("dapp", "deployments", "jobs", "controllerrevisions", "secrets", "pods"):
        api.kubectl("delete", kind, "--all", "-n", "default", "--wait=false")


async def test_the_line_from_nothing_to_a_second_version(line: Line) -> None:
    await line.look()
    assert line.condition("SchemaMigrated")[1] == "MigrationRunning"
    assert line.deployments() == {}
    line.finish_job()
    await line.look()
    assert line.deployments() == {"v1": 2}
    await line.look()
    assert line.condition("Reconciling")[:2] == ("True", "WaitingForWorkers")
    line.run_pods("v1")
    await line.look(3)
    assert line.condition("Reconciling")[:2] == ("False", "UpToDate")
    assert line.condition("Ready")[:2] == ("True", "CurrentVersionAvailable")

    line.api.apply(durable_app("localhost/shop:v2"))
    await line.look(2)
    line.finish_job("Complete")
    await line.look()
    assert line.deployments() == {"v1": 2, "v2": 2}
    line.run_pods("v2")
    await line.look(3)
    assert line.sql("SELECT current FROM everstep.routing") == [("v2",)]
    assert line.condition("Draining")[:2] == ("True", "WaitingForQuiescence")

    line.sql(
        "UPDATE everstep.version SET draining_since = now() - interval '1 minute'"
        " WHERE version = 'v1'"
    )
    await line.look(2)
    assert line.deployments() == {"v1": 0, "v2": 2}
    line.run_pods("v1")
    await line.look(3)
    assert line.deployments() == {"v2": 2}
    assert line.sql("SELECT state FROM everstep.version WHERE version = 'v1'") == [("retired",)]
    assert [v["version"] for v in line.app()["status"]["versions"]] == ["v2"]


async def test_an_operator_at_rest_sends_no_write_request(line: Line) -> None:
    await line.serve("v1")
    await line.look(2)
    before = line.api.writes(AGENT)
    await line.look(100)
    assert line.api.writes(AGENT) == before
    assert before, "the audit log counts"


async def test_scale_subresource_resizes_the_current_version(line: Line) -> None:
    await line.serve("v1")
    line.api.kubectl("scale", "dapp/shop", "-n", "default", "--replicas=5")
    await line.look()
    assert line.deployments() == {"v1": 5}
    line.run_pods("v1")
    await line.look(2)
    path = "/apis/everstep.dev/v1alpha1/namespaces/default/durableapps/shop/scale"
    scale = json.loads(line.api.kubectl("get", "--raw", path))
    assert scale["status"] == {"replicas": 5, "selector": names.selector_text("shop", "v1")}


async def test_a_failed_migration_leaves_the_old_version_serving(line: Line) -> None:
    await line.serve("v1")
    line.api.apply(durable_app("localhost/shop:v2"))
    await line.look()
    line.finish_job("Failed")
    await line.look(2)
    assert line.condition("SchemaMigrated")[:2] == ("False", "MigrationFailed")
    assert line.condition("Stalled")[0] == "True"
    assert line.condition("Ready")[0] == "True"
    assert line.deployments() == {"v1": 2}


async def test_an_unknown_database_lets_nothing_shrink(line: Line) -> None:
    await line.serve("v1")
    line.api.kubectl("delete", "secret", "shop-db", "-n", "default")
    line.api.kubectl("scale", "dapp/shop", "-n", "default", "--replicas=1")
    await line.look(2)
    assert line.condition("DatabaseReachable")[:2] == ("False", "SecretMissing")
    assert line.deployments() == {"v1": 2}
    assert line.app()["status"]["currentVersion"] == "v1"


async def test_another_database_under_the_same_address_is_not_trusted(line: Line) -> None:
    await line.serve("v1")
    status = line.app()["status"]
    line.api.status("dapp", "shop", {"database": {**status["database"], "systemIdentifier": "1"}})
    await line.look()
    assert line.condition("DatabaseReachable")[1] == "IdentityChanged"
    found = line.sql("SELECT system_identifier::text FROM pg_control_system()")[0][0]
    accept = f"{names.ANNOTATION_ACCEPT_DATABASE}={found}"
    line.api.kubectl("annotate", "dapp", "shop", "-n", "default", accept)
    await line.look()
    assert line.condition("DatabaseReachable")[:2] == ("True", "Connected")
    assert line.app()["status"]["database"]["systemIdentifier"] == found


async def test_what_somebody_changed_in_a_deployment_is_set_right(line: Line) -> None:
    await line.serve("v1")
    name = names.deployment("shop", "v1")
    line.api.kubectl("set", "env", f"deployment/{name}", "-n", "default", "EVERSTEP_APP=wrong")
    await line.look()
    body = line.api.get("deployment", name, "-n", "default")
    environment = body["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EVERSTEP_APP", "value": "shop"} in environment


async def test_a_deployment_that_somebody_paused_goes_on(line: Line) -> None:
    await line.serve("v1")
    name = names.deployment("shop", "v1")
    line.api.kubectl("rollout", "pause", f"deployment/{name}", "-n", "default")
    await line.look()
    assert not line.api.get("deployment", name, "-n", "default")["spec"].get("paused")


async def test_a_deployment_that_was_deleted_comes_back(line: Line) -> None:
    await line.serve("v1")
    name = names.deployment("shop", "v1")
    line.api.kubectl("delete", "deployment", name, "-n", "default", "--wait=false")
    await line.look()
    assert line.deployments() == {"v1": 2}


async def test_somebody_s_own_deployment_may_carry_the_label_of_the_app(line: Line) -> None:
    """A shop front labelled with the app it belongs to is no version of it."""
    await line.serve("v1")
    labels = {names.LABEL_APP: "shop", "tier": "front"}
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    front = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "front", "namespace": "default", "labels": labels},
        "spec": {"selector": {"matchLabels": {"tier": "front"}}, "template": pods},
    }
    line.api.apply(front)
    await line.look(2)
    assert line.api.get("deployment", "front", "-n", "default")["spec"]["replicas"] == 1
    assert [v["version"] for v in line.app()["status"]["versions"]] == ["v1"]


async def test_what_a_deleted_app_of_the_same_name_left_is_not_taken_for_ours(line: Line) -> None:
    """Without a garbage collector behind this API server the leftovers stay for good."""
    await line.serve("v1")
    line.api.kubectl("delete", "dapp", "shop", "-n", "default")
    await line.look()
    line.sql("DROP SCHEMA everstep CASCADE")
    line.api.apply(durable_app())
    await line.look()
    assert line.condition("SchemaMigrated")[1] == "MigrationRunning", "not the old Job's success"
    line.api.kubectl("delete", "jobs", "--all", "-n", "default", "--wait=false")
    await line.serve("v1")
    owner = line.api.get("deployments", "-n", "default")["items"][0]["metadata"]["ownerReferences"]
    assert [o["uid"] for o in owner] == [line.app()["metadata"]["uid"]]


async def test_a_webhook_that_is_down_is_told_in_the_status(line: Line) -> None:
    """The API server answers 500: an error of nobody's spec, but somebody has to mend it."""
    service = {"name": "nowhere", "namespace": "default", "path": "/"}
    hook = {
        "name": "policy.example.com",
        "clientConfig": {"service": service},
        "rules": [
            {
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "resources": ["deployments"],
                "operations": ["CREATE", "UPDATE"],
            }
        ],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "policy"},
        "webhooks": [hook],
    }
    await line.look(2)
    line.finish_job()
    line.api.apply(policy)
    try:
        await line.look()
    finally:
        line.api.kubectl("delete", "validatingwebhookconfiguration", "policy")
    status, reason, message = line.condition("Stalled")
    assert (status, reason) == ("True", "RejectedByCluster")
    assert "policy.example.com" in message


def _without_image(spec: dict[str, Any]) -> None:
    del spec["template"]["spec"]["containers"][0]["image"]


def _in_worker(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda spec: spec["template"]["spec"]["containers"][0].update(fields)


REFUSED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda s: s.update(replicas=-1), "spec.replicas"),
    (lambda s: s.update(version="not ok"), "spec.version"),
    (lambda s: s.update(drain={"scaleDownDelay": "5 minutes"}), "spec.drain.scaleDownDelay"),
    (lambda s: s.pop("database"), "spec.database"),
    (lambda s: s["template"]["spec"]["containers"][0].update(name="app"), "named 'worker'"),
    (_without_image, "named 'worker' with an image"),
    (
        lambda s: s["template"].update(metadata={"labels": {"everstep.dev/app": "x"}}),
        "may not use the prefix",
    ),
    (lambda s: s.update(migrations={"path": "relative"}), "spec.migrations.path"),
    (_in_worker(env={"COLOUR": "blue"}), r"containers\[0\].env"),
    (_in_worker(env=[{"value": "blue"}]), r"containers\[0\].env\[0\].name"),
    (_in_worker(args="worker a:b"), r"containers\[0\].args"),
    (_in_worker(ports=[9464]), r"containers\[0\].ports\[0\]"),
    (
        lambda s: s["template"]["spec"].update(terminationGracePeriodSeconds="long"),
        "terminationGracePeriodSeconds",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_a_wrong_spec_is_refused_with_a_readable_message(
    api: BareApi, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    body = durable_app()
    spoil(body["spec"])
    with pytest.raises(CommandFailedError, match=message):
        api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


@pytest.mark.parametrize("name", ["a" * 41, "with.dot", "9lives"])
def test_a_name_that_cannot_become_a_label_is_refused(api: BareApi, name: str) -> None:
    body = durable_app()
    body["metadata"]["name"] = name
    with pytest.raises(CommandFailedError, match=r"metadata\.name m"):
        api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


def test_empty_fields_of_a_template_are_no_mistake(api: BareApi) -> None:
    """What `env:` with nothing under it becomes, as many a chart renders it."""
    body = durable_app()
    nothing = dict.fromkeys(("env", "ports", "volumeMounts", "securityContext", "args"))
    _in_worker(**nothing)(body["spec"])
    body["spec"]["template"]["spec"] |= {"volumes": None, "initContainers": None}
    api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))
    app = parse(body | {"metadata": {**body["metadata"], "uid": "u", **_MADE}})
    assert deployment(app, "v1", app.spec.template, 1)["spec"]["template"]["spec"]["volumes"]
    assert job(app)["spec"]["template"]["spec"]["volumes"]


async def test_the_schema_of_a_database_cannot_be_changed(line: Line) -> None:
    body = durable_app()
    body["spec"]["database"]["schema"] = "other"
    with pytest.raises(CommandFailedError, match=r"database\.schema cannot be changed"):
        line.api.apply(body)
