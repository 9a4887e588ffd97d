"""Results as a table of ratios, or as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rows import Figure, Row


@dataclass
class Result:
    """The figures of a row's turns, of both sides in the same order; and why a side has none."""

    row: Row
    mine: list[dict[str, float]] = field(default_factory=list)
    other: list[dict[str, float]] = field(default_factory=list)
    absent: str = "none"
    mine_absent: str = ""

    def of(self, figure: Figure) -> tuple[list[float], list[float]]:
        return _values(self.mine, figure), _values(self.other, figure)


def show(results: list[Result], other: str | None, bare: float) -> None:
    table = Table(title="One worker process each, one Postgres, fsync on")
    table.add_column("what")
    for column in ("everstep", *([other, "ratio"] if other else [])):
        table.add_column(column, justify="right")
    for result in results:
        for figure in result.row.figures:
            mine, theirs = result.of(figure)
            cells = [_number(mine) or result.mine_absent]
            if other:
                cells += [_number(theirs) or result.absent, _ratio(figure, mine, theirs)]
            table.add_row(figure.title, *cells)
        table.add_section()
    console = Console()
    console.print(table)
    console.print(
        f"Medians of the turns; ratios above 1 are in favour of everstep. One bare INSERT committed alone: "
        f"{bare:.2f} ms (p50). {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}."
    )


def as_json(results: list[Result], other: str | None, bare: float) -> str:
    values: dict[str, object] = {"bare_commit_ms": bare}
    for result in results:
        for figure in result.row.figures:
            mine, theirs = result.of(figure)
            values[figure.title] = {"everstep": mine} | ({other: theirs} if other else {})
    return json.dumps(values)


def _values(turns: list[dict[str, float]], figure: Figure) -> list[float]:
    return [turn[figure.key] * figure.scale for turn in turns]


def _ratio(figure: Figure, mine: list[float], theirs: list[float]) -> str:
    """The median of the turns' ratios: the two of a turn ran one after the other."""
    pairs = [
        (m, t) if figure.higher_is_better else (t, m) for m, t in zip(mine, theirs, strict=False)
    ]
    if not pairs or any(below <= 0 for _, below in pairs):
        return ""
    ratio = statistics.median(above / below for above, below in pairs)
    digits = 0 if ratio >= 100 else 1 if ratio >= 2 else 2
    return f"{ratio:,.{digits}f} x"


def _number(values: list[float]) -> str:
    if not values:
        return ""
    value = statistics.median(values)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
