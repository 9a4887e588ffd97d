"""One option has one name: in Python, on the command line and in SQL, and stands in the same order."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib.resources import files

import click
import pytest

from everstep import App, Debounce, Filter, Handle, Queue, Settings, StartOptions
from everstep.cli.main import everstep
from everstep.client.asynchronous import Client
from everstep.client.timetable import Changes, Timetable

OF_EVERY_COMMAND = {"database", "schema", "output", "app"}


def below(group: click.Command, name: str) -> click.Command:
    assert isinstance(group, click.Group)
    command = group.get_command(click.Context(group), name)
    assert command is not None, name
    return command


def options(path: str) -> list[str]:
    """The options of a command by the names that Python would give them, without those that many commands share."""
    command: click.Command = everstep
    for word in path.split():
        command = below(command, word)
    names = [
        max(parameter.opts, key=len).removeprefix("--").replace("-", "_")
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
    return [name for name in names if name not in OF_EVERY_COMMAND]


def verbs(path: str) -> set[str]:
    group = below(everstep, path)
    assert isinstance(group, click.Group)
    return set(group.commands)


def of_debounce(name: str) -> list[str]:
    key, *rest = (field.name for field in fields(Debounce))
    assert key == "key"
    return [name, *(f"{name}_{field}" for field in rest)]


def test_a_start_has_the_same_options_on_the_command_line() -> None:
    wanted: list[str] = []
    for name in StartOptions.__annotations__:
        # A command has no transaction of its own.
        wanted += of_debounce(name) if name == "debounce" else [name] * (name != "connection")
    given = options("workflow start")
    assert given == ["name", "input", *wanted, "wait", "wait_timeout"]


@pytest.mark.parametrize("verb", ["list", "cancel"])
def test_workflows_are_chosen_by_the_same_names(verb: str) -> None:
    named = {"statuses": "status", "id_prefix": "id"}
    wanted = [named.get(field.name, field.name) for field in fields(Filter)]
    given = options(f"workflow {verb}")
    assert given[: len(wanted)] == wanted
    assert set(given[len(wanted) :]) == {"limit"} if verb == "list" else {"children", "yes"}


def test_queues_have_the_same_limits() -> None:
    declared = [name for name in inspect.signature(App.queue).parameters if name != "self"]
    assert declared == [field.name for field in fields(Queue)]
    assert options("queue set") == declared[1:]
    assert {*sql_columns("queue"), "name"} >= set(declared)


def test_schedules_are_changed_as_they_are_declared() -> None:
    declared = [*inspect.signature(App.schedule).parameters]
    assert options("schedule set") == [*Changes.__annotations__]
    assert [name for name in declared if name not in ("self", "name")] == [*Changes.__annotations__]


def test_a_worker_is_told_the_same_by_options_and_settings() -> None:
    ours = {field.name for field in fields(Settings)} | {"queue", "log_format", "log_level"}
    assert set(options("worker")) <= ours


def test_verbs_are_methods() -> None:
    named = {"stream": "read_stream", "result": "handle"}
    for verb in verbs("workflow"):
        assert hasattr(Client, named.get(verb, verb)), verb
    assert hasattr(Handle, "result")
    assert verbs("schedule") == {name for name in vars(Timetable) if not name.startswith("_")}


def sql_parameters(function: str) -> list[str]:
    """The parameters of an SQL function, as the last migration that has it declares them."""
    texts = [
        file.read_text()
        for file in sorted(files("everstep.migrations").iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]
    found = [
        match[1]
        for text in texts
        for match in re.finditer(
            rf"CREATE (?:OR REPLACE )?FUNCTION everstep\.{function}\((.*?)\) RETURNS",
            text,
            re.DOTALL,
        )
    ]
    return [each.split()[0] for each in found[-1].split(",")]


def sql_columns(table: str) -> set[str]:
    texts = "".join(
        file.read_text()
        for file in files("everstep.migrations").iterdir()
        if file.name.endswith(".sql")
    )
    changes = re.findall(rf"(?:CREATE|ALTER) TABLE everstep\.{table}\b(.*?);", texts, re.DOTALL)
    return set(re.findall(r"^\s*(?:ADD COLUMN )?(\w+) +\w", "\n".join(changes), re.MULTILINE))


def test_a_start_in_sql_has_the_same_names() -> None:
    """It is always in the caller's transaction, and a debounced one is a function of its own."""
    apart = {"debounce", "connection"}
    assert set(sql_parameters("start")) == {
        *StartOptions.__annotations__.keys() - apart,
        "name",
        "input",
    }


def test_a_debounce_in_sql_has_the_same_names() -> None:
    """`window` is a word of SQL's own. What decides the id or the time is not given with it, as in Python."""
    own = {"time_window" if field.name == "window" else field.name for field in fields(Debounce)}
    assert set(sql_parameters("debounce")) == own | set(sql_parameters("start")) - {
        "id", "delay", "run_at", "dedup", "on_duplicate", "on_existing",
    }  # fmt: skip
