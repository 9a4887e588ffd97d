"""The chart, rendered: least privilege, restricted pods, nothing made by guessing."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from everstep_operator.check import NEEDED

TOP = Path(__file__).parents[3]
CHART = TOP / "charts/everstep"
BUILT = sorted(Path.home().glob(".cache/everstep-kube/*/bin/helm"))
HELM = shutil.which("helm") or (str(BUILT[0]) if BUILT else None)

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed")

MODES = {
    "namespaced": (),
    "listed": ("watchNamespaces={shop,bank}",),
    "cluster": ("clusterWide=true",),
    "everything": (
        "monitoring.podMonitor.enabled=true",
        "monitoring.dashboards.enabled=true",
        "rbac.aggregate=true",
    ),
}


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert HELM
    command = [HELM, *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)


def render(*values: str) -> list[dict[str, Any]]:
    sets = [part for value in values for part in ("--set", value)]
    done = helm("template", "everstep", str(CHART), "--namespace", "ops", *sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [o for o in objects if o["kind"] in kinds]


def pod_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [o["spec"]["template"]["spec"] for o in of_kind(objects, "Deployment")]
    return found + [o["spec"] for o in of_kind(objects, "Pod")]


@needs_helm
@pytest.mark.parametrize("mode", MODES)
def test_pods_are_restricted_and_have_limits(mode: str) -> None:
    specs = pod_specs(render(*MODES[mode]))
    assert len(specs) == 2
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 10000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & spec.keys()
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            for part in ("requests", "limits"):
                wanted = {"cpu", "memory", "ephemeral-storage"}
                assert wanted <= container["resources"][part].keys()
            assert not container["image"].endswith((":latest", ":"))


@needs_helm
def test_the_operator_has_three_different_probes() -> None:
    (deployment,) = of_kind(render(), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "startupProbe" in container


@needs_helm
@pytest.mark.parametrize("mode", MODES)
def test_no_rule_is_wider_than_it_has_to_be(mode: str) -> None:
    roles = of_kind(render(*MODES[mode]), "Role", "ClusterRole")
    for role in roles:
        for rule in role["rules"]:
            everything = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "*" not in everything
            assert not {"pods/exec", "customresourcedefinitions", "nodes"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]


@needs_helm
@pytest.mark.parametrize("mode", ["namespaced", "listed", "cluster"])
def test_the_roles_grant_exactly_what_the_operator_checks_for(mode: str) -> None:
    kind = "ClusterRole" if mode == "cluster" else "Role"
    roles = [
        role
        for role in of_kind(render(*MODES[mode]), kind)
        if not role["metadata"]["name"].endswith("-lease")
    ]
    assert roles
    for role in roles:
        granted = {
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        needed = {(g, resource, verb) for g, resource, verbs in NEEDED for verb in verbs}
        assert granted == needed


@needs_helm
def test_a_namespaced_operator_gets_no_cluster_role() -> None:
    assert not of_kind(render(), "ClusterRole", "ClusterRoleBinding")
    roles = of_kind(render("watchNamespaces={shop,bank}"), "Role")
    assert {r["metadata"]["namespace"] for r in roles} == {"shop", "bank", "ops"}
    assert [r["metadata"]["name"] for r in roles if r["metadata"]["namespace"] == "ops"] == [
        "everstep-lease"
    ]


@needs_helm
def test_the_operator_is_told_what_it_may_watch() -> None:
    def watched(*values: str) -> str:
        (deployment,) = of_kind(render(*values), "Deployment")
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        found = {e["name"]: e.get("value") for e in container["env"]}
        return str(found["EVERSTEP_OPERATOR_WATCH_NAMESPACES"])

    assert watched() == "ops"
    assert watched("watchNamespaces={shop,bank}") == "shop,bank"
    assert watched("clusterWide=true") == ""


@needs_helm
def test_the_crd_is_kept_and_can_be_left_out() -> None:
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    generated = yaml.safe_load((CHART / "files/durableapps.yaml").read_text())
    assert crd["spec"] == generated["spec"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not of_kind(render("crds.install=false"), "CustomResourceDefinition")


@needs_helm
def test_monitors_and_boards_are_made_only_when_asked_for() -> None:
    plain = {o["kind"] for o in render()}
    assert not {"PodMonitor", "ConfigMap"} & plain
    monitors = of_kind(render(*MODES["everything"]), "PodMonitor")
    ports = {m["spec"]["podMetricsEndpoints"][0]["port"] for m in monitors}
    assert ports == {"metrics", "everstep"}


@needs_helm
def test_every_board_of_the_chart_becomes_a_configmap() -> None:
    boards = sorted((CHART / "dashboards").glob("*.json"))
    maps = of_kind(render("monitoring.dashboards.enabled=true"), "ConfigMap")
    texts = {name: text for m in maps for name, text in m["data"].items()}
    assert sorted(texts) == [board.name for board in boards]
    for board in boards:
        assert json.loads(texts[board.name]) == json.loads(board.read_text())


@needs_helm
@pytest.mark.parametrize(
    "value",
    ["replica=2", "image.name=x", "monitoring.enabled=true", "logging.level=LOUD", "replicas=two"],
)
def test_a_value_that_does_not_exist_is_an_error(value: str) -> None:
    done = helm("template", "everstep", str(CHART), "--set", value)
    assert done.returncode != 0
    assert "schema" in done.stderr


@needs_helm
def test_the_plain_manifest_is_the_rendered_chart() -> None:
    options = ("--namespace", "everstep", "--skip-tests")
    done = helm("template", "everstep", str(CHART), *options)
    rendered = [d for d in yaml.safe_load_all(done.stdout) if d]
    plain = list(yaml.safe_load_all((TOP / "manifests/install.yaml").read_text()))
    assert [d for d in plain if d and d["kind"] != "Namespace"] == rendered


def keys(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for name, value in values.items():
        assert name in schema["properties"], f"{path}{name} is missing in values.schema.json"
        below = schema["properties"][name]
        if isinstance(value, dict) and "properties" in below:
            found += keys(value, below, f"{path}{name}.")
        else:
            found.append(f"{path}{name}")
    return found


def test_values_schema_and_readme_agree() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    readme = (CHART / "README.md").read_text()
    for key in keys(values, schema):
        assert f"`{key}`" in readme, f"{key} is not in the chart's README"
