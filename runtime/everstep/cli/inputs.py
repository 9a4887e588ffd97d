"""A workflow's input as given on the command line: read, and checked against its parameters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from everstep.definitions import Workflow
from everstep.errors import UsageError


def read_input(given: str) -> dict[str, Any]:
    """The JSON object in an argument, a file (@name) or standard input (-). Raises UsageError."""
    text, where = _text(given)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{where} is not JSON ({error}). Write an object in single quotes: --input '{{\"order\": 7}}'"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(
            f"{where} is not a JSON object. It names the workflow's parameters: --input '{{\"order\": 7}}'"
        )
    return value


def json_object(text: str) -> dict[str, Any]:
    """A JSON object in an argument. Raises click.BadParameter."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.BadParameter(
            f"{text!r} is not a JSON object ({error}): write '{{\"ward\": 7}}'"
        ) from None


def checked_input(
    workflow: Workflow[Any, Any], given: dict[str, Any], limit: int
) -> dict[str, Any]:
    """The input as the client itself would record it, defaults included. Raises UsageError or PayloadError."""
    arguments = workflow.arguments
    try:
        args, kwargs = arguments.decode(msgspec.json.encode(given))
    except UsageError as error:
        raise UsageError(f"{error}. It takes: {_parameters(workflow)}") from None
    recorded: dict[str, Any] = msgspec.json.decode(arguments.encode(tuple(args), kwargs, limit))
    return recorded


def _text(given: str) -> tuple[bytes, str]:
    if given == "-":
        return sys.stdin.buffer.read(), "standard input"
    if not given.startswith("@"):
        return given.encode(), "--input"
    path = Path(given[1:])
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None


def _parameters(workflow: Workflow[Any, Any]) -> str:
    import inspect

    return str(inspect.signature(workflow.function))
