"""What exists twice is the same twice: the language and the client, with `await` and without."""

from __future__ import annotations

import inspect

import pytest

import everstep
from everstep import sync
from everstep.client.asynchronous import Client
from everstep.client.handle import Handle
from everstep.client.timetable import Timetable

FOR_BOTH = {"workflow_id", "step_context"}
"""Functions that wait for nothing: one for both colours."""

ONLY_COROUTINES = {"timeout", "wait_for"}
"""They stop what they limit; a thread cannot be stopped."""

ONLY_PLAIN = {"call", "gather", "Client", "Handle", "ChildHandle"}
"""asyncio has its own gather; the classes are compared below."""

ONLY_ASYNC = {"run_here", "outcomes"}
"""For the worker, which is async."""


def test_every_function_of_the_language_exists_without_await():
    language = {n for n in everstep.__all__ if inspect.isfunction(getattr(everstep, n))}
    assert set(sync.__all__) - ONLY_PLAIN == language - FOR_BOTH - ONLY_COROUTINES


@pytest.mark.parametrize(
    ("coloured", "plain"),
    [
        (Client, sync.Client),
        (Handle, sync.Handle),
        (everstep.ChildHandle, sync.ChildHandle),
        (Timetable, sync.Client.schedules.fget.__annotations__["return"]),
    ],
    ids=["client", "handle", "child", "schedules"],
)
def test_every_method_exists_without_await(coloured, plain):
    if isinstance(plain, str):
        plain = inspect.getmodule(sync.Client).__dict__[plain]
    assert public(coloured) - ONLY_ASYNC == public(plain)
    for name in public(plain):
        ours, theirs = getattr(plain, name), getattr(coloured, name)
        if inspect.isfunction(ours):
            assert list(inspect.signature(ours).parameters) == list(
                inspect.signature(theirs).parameters
            ), name


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} - {"result_in"}
