"""What commands print: tables for people, JSON for programs, ids for other commands. No colours in pipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    rows: Sequence[Any], style: str, columns: Columns, *, id_of: str, empty: str
) -> None:
    """A list of dataclasses. `columns`: attribute to title, for tables; `empty`: said instead of no rows."""
    match style:
        case "json":
            print_json(rows)
        case "ids":
            for row in rows:
                click.echo(getattr(row, id_of))
        case _ if not rows:
            click.echo(empty, err=True)
        case _:
            print_table(
                [[getattr(row, name) for name in columns] for row in rows], columns.values()
            )


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(rows: Sequence[Sequence[Any]], titles: Iterable[str]) -> None:
    cells = [[cell(value) for value in row] for row in rows]
    for column in zip(*cells, strict=True):
        # Numbers among words, such as what steps returned, begin where the words do.
        if not all(text.justify or text.plain == "-" for text in column):
            _begin_left(column)
    if not Console().is_terminal:
        _print_lines([[Text(title) for title in titles], *cells])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*row)
    _print(table)


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
    plain = [[" ".join(text.plain.split("\n")) for text in row] for row in rows]
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
