"""Workflow functions that catch everything, also what everstep stops them with: found in their source.

A control signal takes a workflow off its worker: it parks, continues as new, is cancelled, or belongs to another worker
by now. Code that catches it goes on without being able to do anything, and in a loop never comes to an end.
"""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from everstep.definitions import Workflow

log = logging.getLogger("everstep")

_LEADS_OUT = (ast.Call, ast.Await, ast.AsyncFor, ast.AsyncWith)


def warn_of_catchalls(workflows: Iterable[Workflow[Any, Any]]) -> None:
    """Log a warning for each such handler."""
    for workflow in workflows:
        for place in catchalls(workflow.function):
            log.warning(
                "workflow %s catches everything at %s, also what takes it off its worker when it waits, is cancelled "
                "or continues as new: write `except Exception:`, or let the handler end with `raise`",
                workflow.name,
                place,
            )


def catchalls(function: Callable[..., Any]) -> list[str]:
    """Where a function has a handler of everything that does not raise it again, as file:line."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
        file = inspect.getsourcefile(function)
    except (OSError, TypeError, SyntaxError):
        return []  # made at run time, or not where it was any more: nobody can tell
    return [f"{file}:{first + handler.lineno - 1}" for handler in _handlers(tree)]


def _handlers(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Try, ast.TryStar)) and _any(node.body, _LEADS_OUT):
            for handler in node.handlers:
                if _catches_all(handler.type) and not _any(handler.body, ast.Raise):
                    yield handler


def _catches_all(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == "BaseException"
        case ast.Tuple(elts=several):
            return any(map(_catches_all, several))
        case _:
            return False


def _any(body: list[ast.stmt], kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> bool:
    return any(isinstance(node, kinds) for statement in body for node in ast.walk(statement))
