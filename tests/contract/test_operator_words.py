"""Every word of docs/reference/contract.md that the operator uses, found on that page."""

import re
from pathlib import Path

import pytest
from unit.operator.worlds import app

from everstep_operator import database, names, pods
from everstep_operator.build.deployment import deployment
from everstep_operator.build.job import job
from everstep_operator.observed import State

PAGE = (Path(__file__).parents[2] / "docs/reference/contract.md").read_text()
MADE = deployment(app(), "v2", app().spec.template, 1)
WORKER = MADE["spec"]["template"]["spec"]["containers"][0]


def section(title: str) -> str:
    return PAGE.split(f"## {title}")[1].split("\n## ")[0]


def test_the_operator_sets_only_variables_of_the_contract() -> None:
    known = set(re.findall(r"`(EVERSTEP_[A-Z_]+)`", section("Environment")))
    for container in (WORKER, job(app())["spec"]["template"]["spec"]["containers"][0]):
        assert {variable["name"] for variable in container["env"]} <= known


def test_labels_are_those_of_the_contract() -> None:
    page = section("Labels and names")
    for label in (names.LABEL_APP, names.LABEL_VERSION, names.LABEL_MANAGED_BY):
        assert f"`{label}`" in page
    assert f"`{names.MANAGER}`" in page
    assert f"`{names.ANNOTATION_VERSION}`" in page


def test_probes_and_port_are_those_of_the_contract() -> None:
    page = section("Endpoints")
    assert f"`{WORKER['ports'][0]['name']}`" in page
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert f"`{WORKER[probe]['httpGet']['path']}`" in page
    assert f"`{WORKER['ports'][0]['containerPort']}`" in section("Environment")


def test_states_are_those_of_the_contract() -> None:
    assert f"`{' '.join(State)}`" in PAGE


@pytest.mark.parametrize("view", ["v1_versions", "v1_workers", "v1_routing"])
def test_views_and_their_columns_are_on_the_page(view: str) -> None:
    statements = (database._ROUTING, database._VERSIONS, database._WORKERS)
    statement = next(s for s in statements if view in s)
    page = section("Views the operator reads")
    for column in re.findall(r"[a-z_]+", statement.split("FROM")[0].replace("SELECT", "")):
        assert re.search(rf"\b{column}\b", page), f"{column} of {view}"


def test_exit_codes_that_cannot_succeed_later_fail_the_job_at_once() -> None:
    rows = re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*)\|", section("Exit codes"), re.MULTILINE)
    never = {int(code) for code, helps in rows if helps.startswith(("no", "after `everstep"))}
    rules = job(app())["spec"]["podFailurePolicy"]["rules"]
    assert set(rules[1]["onExitCodes"]["values"]) == never
    assert {int(code) for code, _ in rows} >= pods._EXIT_CODES.keys() - {137}
