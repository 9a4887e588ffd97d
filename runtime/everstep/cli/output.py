"""What commands print: tables for people, JSON for programs, ids for other commands. No colours in pipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import NoneType
from typing import Any

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everstep.cli.fitting import LEAST, Column, fitted
from everstep.store.infos import Encoded

Columns = Mapping[str, str]

_COLOURS = {
    "succeeded": "green",
    "running": "cyan",
    "current": "green",
    "failed": "red",
    "dead_letter": "red",
    "error": "red",
    "paused": "yellow",
    "cancelled": "yellow",
    "warning": "yellow",
}


def print_rows(
    rows: Sequence[Any],
    style: str,
    columns: Columns,
    *,
    id_of: str,
    empty: str,
    spare: Sequence[str] = (),
) -> None:
    """A list of dataclasses. `columns`: attribute to title, for tables; `empty`: said instead of no rows.

    `spare`: columns that a narrow terminal does without, the first to go first; then those on the right.
    """
    match style:
        case "json":
            print_json(rows)
        case "ids":
            for row in rows:
                click.echo(getattr(row, id_of))
        case _ if not rows:
            click.echo(empty, err=True)
        case _:
            names = list(columns)
            print_table(
                [[getattr(row, name) for name in names] for row in rows],
                list(columns.values()),
                _ranks(names, id_of, spare),
            )


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _ranks(names: Sequence[str], id_of: str, spare: Sequence[str]) -> list[int]:
    """By column, how soon a narrow terminal does without it: the id never."""
    going = [*spare, *(name for name in reversed(names) if name not in spare)]
    return [0 if name == id_of else len(going) - going.index(name) for name in names]


def print_table(
    rows: Sequence[Sequence[Any]], titles: Sequence[str], ranks: Sequence[int] | None = None
) -> None:
    cells = [[cell(value) for value in row] for row in rows]
    for column in zip(*cells, strict=True):
        # Numbers among words, such as what steps returned, begin where the words do.
        if not all(text.justify or text.plain == "-" for text in column):
            _begin_left(column)
    if (console := Console(highlight=False)).is_terminal:
        columns = zip(*rows, strict=True), zip(*cells, strict=True)
        of_each = zip(titles, *columns, ranks or range(len(titles)), strict=True)
        shapes = [_shape(*of_one) for of_one in of_each]
        widths = fitted(shapes, console.width)
        _print_fitted(console, cells, titles, widths)
        _tell_left_out(titles, shapes, widths)
    else:
        _print_lines([[Text(title) for title in titles], *cells])


def _shape(title: str, values: Sequence[Any], texts: Sequence[Text], rank: int) -> Column:
    """Numbers, times and durations are whole or not there; of a text a part says something, too."""
    wide = max(cell_len(title), *(cell_len(_on_one_line(text).plain) for text in texts))
    whole = all(isinstance(value, (int, datetime, timedelta, NoneType)) for value in values)
    least = wide if whole else min(wide, max(cell_len(title), LEAST))
    return Column(wide, least, rank, empty=all(text.plain in ("", "-") for text in texts))


def _print_fitted(
    console: Console, cells: Sequence[Sequence[Text]], titles: Sequence[str], widths: Sequence[int]
) -> None:
    """For terminals: a line for each row, in what room there is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, width in zip(titles, widths, strict=True):
        if width:
            table.add_column(title, width=width, no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(_on_one_line(t) for t, width in zip(row, widths, strict=True) if width))
    console.print(table)


def _tell_left_out(titles: Sequence[str], shapes: Sequence[Column], widths: Sequence[int]) -> None:
    """Columns that are left out, but for those that say nothing."""
    every = zip(titles, shapes, widths, strict=True)
    if left_out := [title for title, shape, width in every if not (width or shape.empty)]:
        click.echo(f"… a wider terminal shows {', '.join(left_out)}", err=True)


def _on_one_line(text: Text) -> Text:
    if "\n" not in text.plain:
        return text
    return Text(" ".join(text.plain.split("\n")), style=text.style, justify=text.justify)


def print_facts(facts: Mapping[str, Any]) -> None:
    """One thing: its facts by name, those that are not there left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    told = {name: cell(value) for name, value in facts.items() if value is not None}
    _begin_left(told.values())
    for name, text in told.items():
        table.add_row(name, text)
    _print(table)


def _begin_left(texts: Iterable[Text]) -> None:
    for text in texts:
        text.justify = None


def cell(value: Any) -> Text:
    """A value as a person reads it; never markup, whatever it holds."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(str(value), justify="right")
    text = _in_words(value)
    return Text(text, style=_COLOURS.get(text, "") if isinstance(value, str) else "")


def _in_words(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return brief(value)
        case str():
            return value
        case Encoded():
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()


def brief(span: timedelta) -> str:
    """A duration in the two units that matter: 1.25 s, 3 min 20 s, 2 d 4 h."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count:.0f} {name}")
    return " ".join(parts[:2])


def _print_lines(rows: Sequence[Sequence[Text]]) -> None:
    """For pipes: a line for each row, however long, in columns. Rich would take seconds for thousands of them."""
    plain = [[_on_one_line(text).plain for text in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*plain, strict=True)]
    for row, texts in zip(rows, plain, strict=True):
        padded = []
        for text, words, width in zip(row, texts, widths, strict=True):
            space = " " * (width - cell_len(words))
            padded.append(space + words if text.justify == "right" else words + space)
        click.echo("  ".join(padded).rstrip())


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    # A pipe has no width: whoever reads it wants whole lines, and nothing after their ends.
    wide = Console(highlight=False, width=10_000)
    with wide.capture() as captured:
        wide.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
