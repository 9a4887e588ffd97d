#!/usr/bin/env python3
"""dashboards.py [--check]: write charts/everstep/dashboards/everstep.json, or only say whether it is fresh."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.builders.common import (
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from everstep.metrics import catalogue
from everstep.metrics.board import ROWS, Panel

TARGET = Path(__file__).parent.parent / "charts/everstep/dashboards/everstep.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT, COLUMNS = 8, 24


def board() -> dashboard.Dashboard:
    """The whole board."""
    made = (
        dashboard.Dashboard("everstep")
        .uid("everstep")
        .tags(["everstep"])
        .description("Durable workflows: backlog, outcomes, waits, workers, rescues and commits.")
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for name in ("namespace", "app"):
        made.with_variable(_variable(name, f"label_values({catalogue.BUILD_INFO.name}, {name})"))
    made.with_variable(_variable("queue", f"label_values({catalogue.WORKFLOWS.name}, queue)"))
    ids = count(1)
    for title, panels in ROWS.items():
        made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made.with_panel(_graph(panel).id(next(ids)).span(_width(len(panels))))
    return made


def _width(panels: int) -> int:
    """Three beside each other, otherwise two."""
    return COLUMNS // 3 if panels % 3 == 0 else COLUMNS // 2


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _graph(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .height(HEIGHT)
        .fill_opacity(10)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.stacked:
        made.stacking(StackingConfig().mode(StackingMode.NORMAL).group("all"))
    for letter, (expression, legend) in zip(ascii_uppercase, panel.queries, strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression)
        made.with_target(query.legend_format(legend).range())
    return made


def text() -> str:
    """The board as JSON."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board().build()) + "\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: scripts/dashboards.py [--check]\n")
        return 2
    if not arguments:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text())
    elif not TARGET.is_file() or TARGET.read_text() != text():
        sys.stderr.write(f"{TARGET.name} is not fresh: run scripts/dashboards.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
