"""Tables, durations, logs and help texts."""

from __future__ import annotations

import json
import logging
import time
from datetime import timedelta

import click
import pytest

from everstep.cli.durations import duration
from everstep.cli.logs import set_up
from everstep.cli.main import everstep
from everstep.cli.output import brief, cell, print_table


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("45s", 45), ("5m", 300), ("1.5h", 5400), ("3d", 259_200), ("250ms", 0.25)],
)
def test_durations_are_written_as_people_do(text: str, seconds: float):
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 weeks", "-1", "1e9", "9" * 30 + "d", "9" * 400])
def test_anything_else_is_no_duration(text: str):
    with pytest.raises(click.BadParameter):
        duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.000066, "0.066 ms"),
        (1.254, "1.25 s"),
        (200, "3 min 20 s"),
        (7200, "2 h 0 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str):
    assert brief(timedelta(seconds=seconds)) == text


def test_values_are_never_markup(capsys):
    assert cell("[red]x[/red]").plain == "[red]x[/red]"
    print_table([["[bold]", "x" * 300, None]], ["A", "B", "C"])
    out = capsys.readouterr().out
    # No colours, whole lines, nothing after their ends: this is no terminal.
    assert out == f"A       B{' ' * 301}C\n[bold]  {'x' * 300}  -\n"


def test_numbers_stand_right_in_a_column_of_numbers_only(capsys):
    print_table([[1, 7], [20, None], [300, {"a": 1}]], ["N", "OUTPUT"])
    assert capsys.readouterr().out == 'N    OUTPUT\n  1  7\n 20  -\n300  {"a":1}\n'


@pytest.fixture
def _logging_restored():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("_logging_restored")
def test_a_log_event_is_one_line_of_json(capsys):
    set_up("json", "info", {"app": "shop"})
    logging.getLogger("any").error(
        "it\nfailed %d", 1, exc_info=ValueError("two\nlines"), extra={"workflow_id": "w"}
    )
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["message"] == "it\nfailed 1"
    assert event["level"] == "error"
    assert event["app"] == "shop"
    assert event["workflow_id"] == "w"
    assert event["time"].endswith("Z")
    assert "ValueError: two\nlines" in event["exception"]


@pytest.mark.usefixtures("_logging_restored")
def test_a_log_event_for_people_is_one_line(capsys):
    set_up("text", "warning", {})
    logging.getLogger("any").info("not this")
    logging.getLogger("any").warning("connection lost:\n  try again")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" warning connection lost: try again")


def _commands(group: click.Group, path: str = "everstep"):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(_commands(everstep)), ids=str)
def test_every_help_teaches_with_examples(path: str, command: click.Command):
    text = command.get_help(click.Context(command, info_name=path))
    examples = text.partition("Examples:\n")[2]
    assert f"  {path.rpartition(' ')[0]} " in f"{examples} " or f"  {path}" in examples, text
    assert command.get_short_help_str(), path


def test_thousands_of_rows_in_a_pipe_take_no_time(capsys):
    began = time.process_time()
    print_table(
        [[f"order-{n}", n, "two\nlines", None] for n in range(5_000)], ["ID", "N", "A", "B"]
    )
    taken = time.process_time() - began
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ID          N     A          B"
    assert lines[1] == "order-0        0  two lines  -"
    assert lines[5_000] == "order-4999  4999  two lines  -"
    assert taken < 2
