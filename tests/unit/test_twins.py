"""What exists twice is the same twice: names, parameters, types and words, with `await` and without."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

import everstep
from everstep import sync
from everstep.client.asynchronous import Client
from everstep.client.blocking_timetable import Timetable as PlainTimetable
from everstep.client.handle import Handle
from everstep.client.timetable import Timetable
from everstep.testing import Clock, Stage, SyncClock, SyncStage

FOR_BOTH = {"workflow_id", "step_context"}
"""Functions that wait for nothing: one for both colours."""

ONLY_COROUTINES = {"timeout", "wait_for"}
"""They stop what they limit; a thread cannot be stopped."""

ONLY_PLAIN = {"call", "gather", "Client", "Handle", "ChildHandle"}
"""asyncio has its own gather; the classes are compared below."""

CLASSES: dict[str, tuple[type, type]] = {
    "client": (Client, sync.Client),
    "handle": (Handle, sync.Handle),
    "child": (everstep.ChildHandle, sync.ChildHandle),
    "schedules": (Timetable, PlainTimetable),
    "stage": (Stage, SyncStage),
    "clock": (Clock, SyncClock),
}

ONLY_ASYNC = {
    "client": {"run_here", "check_known"},  # for the worker and handles, which are async
    "handle": {"result_in"},
    "stage": {"open"},  # the plain one is a context manager itself
}

OTHER_TYPES = {
    "as_completed": "takes coroutines, and without `await` calls",
    "client.connect": "is an `async with`, and a `with`",
}
OTHER_WORDS = {
    "as_completed": "compares itself with asyncio's",
    "run": "says what becomes of a step of the other colour",
    "client.connect": "says how it is entered",
    "client.open": "says how it is entered",
}


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The public methods and properties of a class, as functions."""
    found = {}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if isinstance(member, classmethod):
            member = member.__func__
        elif isinstance(member, property):
            member = member.fget
        elif isinstance(member, functools.cached_property):
            member = member.func
        if inspect.isfunction(member) and not name.startswith("_"):
            found[name] = member
    return found


def test_every_function_of_the_language_exists_without_await() -> None:
    language = {n for n in everstep.__all__ if inspect.isfunction(getattr(everstep, n))}
    assert set(sync.__all__) - ONLY_PLAIN == language - FOR_BOTH - ONLY_COROUTINES


@pytest.mark.parametrize("pair", CLASSES)
def test_every_method_exists_without_await(pair: str) -> None:
    coloured, plain = CLASSES[pair]
    assert set(methods(coloured)) - ONLY_ASYNC.get(pair, set()) == set(methods(plain)) - {"wait"}


def twins() -> dict[str, tuple[Callable[..., Any], Callable[..., Any]]]:
    found: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        name: (getattr(everstep, name), getattr(sync, name))
        for name in sync.__all__
        if name not in ONLY_PLAIN
    }
    for pair, (coloured, plain) in CLASSES.items():
        theirs, ours = methods(coloured), methods(plain)
        found |= {f"{pair}.{n}": (theirs[n], ours[n]) for n in theirs.keys() & ours.keys()}
    return found


TWINS = twins()


@pytest.mark.parametrize("name", sorted(TWINS.keys() - OTHER_TYPES.keys()))
def test_a_twin_takes_and_gives_the_same(name: str) -> None:
    coloured, plain = TWINS[name]
    for theirs, ours in [(coloured, plain), *zip(*map(get_overloads, TWINS[name]), strict=True)]:
        assert shape(ours) == shape(theirs)


@pytest.mark.parametrize("name", sorted(TWINS.keys() - OTHER_WORDS.keys()))
def test_a_twin_is_explained_by_the_same_words(name: str) -> None:
    coloured, plain = TWINS[name]
    assert plain.__doc__ is not None, "it has no docstring"
    assert inspect.getdoc(plain) == inspect.getdoc(coloured)


@pytest.mark.parametrize("name", sorted(OTHER_TYPES.keys() | OTHER_WORDS.keys()))
def test_an_exception_is_needed(name: str) -> None:
    coloured, plain = TWINS[name]
    if name in OTHER_TYPES:
        assert shape(plain) != shape(coloured)
    if name in OTHER_WORDS:
        assert inspect.getdoc(plain) != inspect.getdoc(coloured)


def shape(function: Callable[..., Any]) -> tuple[list[Any], str]:
    """Parameters and result, as if waiting were nothing."""
    signature = inspect.signature(function)
    parameters = [
        (p.name, p.kind, value(p.default), without_waiting(p.annotation))
        for p in signature.parameters.values()
    ]
    return parameters, without_waiting(signature.return_annotation)


def value(default: object) -> object:
    return default.__code__.co_code if inspect.isfunction(default) else default


def without_waiting(annotation: object) -> str:
    text = str(annotation).replace("builtins.", "").replace("sync.", "")
    text = text.replace("AsyncIterator", "Iterator")
    text = text.replace("AbstractContextManager", "Iterator")  # of a @contextmanager
    awaited = re.fullmatch(r"Coroutine\[object, None, (.*)\]", text)
    return awaited[1] if awaited else text
