"""The CRD is generated; the chart's copy is what is generated; parser and schema agree."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.operator.worlds import body

from everstep_operator.__main__ import crd_text
from everstep_operator.crd import definition
from everstep_operator.resource import Spec, parse
from everstep_operator.schema import InvalidError, camel, duration, duration_text

TOP = Path(__file__).parents[3]
SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_chart_s_copy_is_fresh() -> None:
    copy = (TOP / "charts/everstep/files/durableapps.yaml").read_text()
    assert copy == crd_text(), (
        "run: python -m everstep_operator crd > charts/everstep/files/durableapps.yaml"
    )


def test_the_crd_has_no_anchors() -> None:
    assert "&id" not in crd_text()
    assert yaml.safe_load(crd_text()) == definition()


def test_it_is_a_dapp_with_scale_and_status() -> None:
    spec = definition()["spec"]
    assert spec["names"]["shortNames"] == ["dapp"]
    assert spec["versions"][0]["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


def walk(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += walk(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        found += walk(schema["items"], f"{path}[]")
    return found


def test_the_schema_is_structural_and_every_field_of_the_spec_is_explained() -> None:
    for path, schema in walk(SCHEMA):
        assert "type" in schema, path
        top = path.startswith(".spec.") and ".template." not in path
        assert not top or schema.get("description"), f"{path} needs a description"


def test_every_rule_has_a_message() -> None:
    for path, schema in walk(SCHEMA):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 20, path


def test_printed_columns_point_at_fields_that_exist() -> None:
    fields = {path for path, _ in walk(SCHEMA)}
    for column in definition()["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].split("[")[0]
        assert path.startswith(".metadata") or path in fields, column


def test_defaults_of_the_schema_are_those_of_the_parser() -> None:
    spec = parse(body()).spec
    drain = SCHEMA["properties"]["spec"]["properties"]["drain"]["properties"]
    assert duration(drain["deleteDelay"]["default"]) == spec.drain.delete_delay
    assert duration(drain["scaleDownDelay"]["default"]) == spec.drain.scale_down_delay
    assert SCHEMA["properties"]["spec"]["properties"]["suspend"]["default"] is False


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("7d", 604800), ("0s", 0)]
)
def test_durations_are_read_and_written(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)
    assert duration(duration_text(duration(text))) == duration(text)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"replicas": "3"}, "spec.replicas"),
        ({"database": {}}, "spec.database.urlFrom"),
        ({"drain": {"deleteDelay": "soon"}}, "spec.drain.deleteDelay"),
        ({"template": {"spec": {"containers": []}}}, "spec.template.spec.containers"),
        ({"migrations": []}, "spec.migrations"),
    ],
)
def test_the_parser_says_where_a_spec_is_wrong(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidError, match=path):
        parse(body(**change))


def test_unknown_fields_of_a_newer_crd_are_ignored() -> None:
    assert parse(body(autoscaling={"mode": "Builtin"})).spec.replicas == 3


def test_names_are_camel_case() -> None:
    assert [camel(name) for name in ("url_from", "suspend")] == ["urlFrom", "suspend"]
    assert Spec.__dataclass_fields__.keys() >= {"replicas", "version", "template", "suspend"}
