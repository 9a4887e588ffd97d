"""The Grafana board says what each panel means, and asks only for what the catalogue has."""

import json
import re
from pathlib import Path

from everstep.metrics.catalogue import CATALOGUE, Scope, Type

BOARD = Path(__file__).parents[3] / "charts/everstep/dashboards/everstep.json"
BY_NAME = {metric.name: metric for metric in CATALOGUE}
BOARD_JSON = json.loads(BOARD.read_text())
PANELS = [panel for panel in BOARD_JSON["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def metric_of(name: str):
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return BY_NAME.get(name) or BY_NAME[base]


def test_every_query_uses_only_metrics_of_the_catalogue_and_labels_they_have():
    for expression in EXPRESSIONS:
        uses = re.findall(r"(everstep_\w+)\{(.*?)\}", expression)
        assert len(uses) == expression.count("everstep_"), expression
        for name, matchers in uses:
            metric = metric_of(name)
            assert (name == metric.name) == (metric.type is not Type.HISTOGRAM), name
            labels = set(re.findall(r"(\w+)=~", matchers)) - {"namespace", "app"}
            assert labels <= set(metric.labels), expression


def test_every_metric_of_the_catalogue_is_on_the_board_or_explains_the_sampler():
    shown = {metric_of(name).name for e in EXPRESSIONS for name in re.findall(r"everstep_\w+", e)}
    left_out = {
        "everstep_metrics_query_duration_seconds",
        "everstep_metrics_query_interval_seconds",
        "everstep_metrics_names_merged",
    }
    assert {metric.name for metric in CATALOGUE} - shown == left_out


def test_counters_are_read_as_rates_over_the_interval_that_fits_the_scrape():
    for expression in EXPRESSIONS:
        for name in re.findall(r"everstep_\w+", expression):
            if metric_of(name).type is not Type.GAUGE:
                pattern = rf"rate\({name}\{{[^}}]*\}}\[\$__rate_interval\]\)"
                assert re.search(pattern, expression), expression
        assert not re.search(r"\[(?!\$__rate_interval\])", expression)


def test_a_gauge_of_the_whole_application_is_not_added_up_over_pods():
    for expression in EXPRESSIONS:
        for name in re.findall(r"everstep_\w+", expression):
            metric = metric_of(name)
            if metric.type is Type.GAUGE and metric.scope is Scope.GLOBAL:
                assert re.search(rf"(max|min) by \([\w, ]+\) \({name}\{{", expression), expression


def test_every_panel_has_a_title_a_unit_and_a_description():
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles) > 15
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]


def test_the_board_can_be_provisioned_as_it_is():
    ids = [panel["id"] for panel in BOARD_JSON["panels"]]
    assert len(set(ids)) == len(ids)
    assert BOARD_JSON["uid"] == "everstep"
    assert BOARD_JSON["editable"] is False
    assert BOARD_JSON["templating"]["list"][0]["type"] == "datasource"
    assert "__inputs" not in BOARD_JSON
    places = [panel["gridPos"] for panel in BOARD_JSON["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    corners = {(place["x"], place["y"]) for place in places}
    assert len(corners) == len(places)
