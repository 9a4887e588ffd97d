"""What a user meets can be imported from `everstep`: every error, and every type that a public signature names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_overloads

import everstep
from everstep import errors, sync

STANDARD = {
    "Any", "AsyncIterator", "Awaitable", "BaseException", "Callable", "Concatenate", "Coroutine", "Exception", "Iterable", "Iterator",
    "Mapping", "NoReturn", "None", "Self", "Sequence", "UUID", "Unpack",
}  # fmt: skip

UNDER_OTHER_NAMES = {"AsyncTx": "Connection", "Tx": "PlainConnection"}

FOR_TYPE_CHECKERS = {
    "AsyncAlchemy", "PlainAlchemy", "ScheduleDecorator", "StepDecorator", "TransactionDecorator", "WorkflowDecorator",
    "Takes0", "Takes1", "Takes2", "Takes3", "Takes4",
}  # fmt: skip
"""What decorators give, and what fits a parameter: nobody writes them."""

FOR_EVERSTEP = {
    "Arguments", "Branch", "Debounced", "Execution", "Here", "Payload", "Phase", "ProbeMaker", "Timetable", "Timing",
}  # fmt: skip
"""Of what everstep calls itself, or is only passed on: `client.schedules.list()`."""


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for module in (everstep, sync):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield name, found
            elif inspect.isclass(found):
                members = inspect.getmembers_static(found, lambda m: hasattr(m, "__code__"))
                members += inspect.getmembers(found, inspect.ismethod)
                for method, function in members:
                    if method == "__init__" or not method.startswith("_"):
                        yield f"{name}.{method}", function


def named_in(function: Callable[..., Any]) -> set[str]:
    signatures = [inspect.signature(each) for each in (function, *get_overloads(function))]
    texts = {
        str(annotation)
        for signature in signatures
        for annotation in (
            signature.return_annotation,
            *(parameter.annotation for parameter in signature.parameters.values()),
        )
        if annotation is not inspect.Parameter.empty
    }
    return {word for text in texts for word in re.findall(r"(?<![\w.])[A-Z]\w+", text)}


def test_every_type_in_a_public_signature_is_public() -> None:
    known = {*everstep.__all__, *STANDARD, *UNDER_OTHER_NAMES, *FOR_TYPE_CHECKERS, *FOR_EVERSTEP}
    named = {where: named_in(function) for where, function in public_functions()}
    assert {where: words - known for where, words in named.items() if words - known} == {}
    assert len(named) > 80
    # The lists above hold nothing that nobody names.
    used = set().union(*named.values())
    assert used >= FOR_TYPE_CHECKERS | UNDER_OTHER_NAMES.keys()


def test_every_error_that_a_user_can_catch_is_public() -> None:
    raised = {
        name
        for name, error in vars(errors).items()
        if inspect.isclass(error) and issubclass(error, errors.EverstepError)
    }
    assert raised - {"MigrationError"} <= set(everstep.__all__)  # that one is the command's


def test_names_are_in_order_and_there() -> None:
    for module in (everstep, sync):
        assert list(module.__all__) == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_a_timeout_is_the_same_option_everywhere() -> None:
    """Seconds or a timedelta, by default none; by name, unless it is all that there is to say."""
    alone = {"Handle.result", "wait_for"}
    found = {
        where: inspect.signature(function).parameters["timeout"]
        for where, function in public_functions()
        if "timeout" in inspect.signature(function).parameters
    }
    # What limits a step is part of its code: it is a timedelta, and so are the times of a Retry.
    of_steps = {
        "App.step",
        "Step.options",
        "PlainStep.options",
        "Step.__init__",
        "PlainStep.__init__",
    }
    assert {"recv", "get_event", "Client.get_event", *alone, "App.step"} <= found.keys()
    for where, parameter in found.items():
        of_step = where in of_steps
        wanted = "timedelta | None" if of_step else "timedelta | float | None"
        assert parameter.annotation == wanted, where
        if not where.endswith("__init__") and where != "wait_for":
            assert parameter.default is None, where
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) is (where not in alone), where


def test_what_a_decorator_takes_can_be_changed_for_one_call() -> None:
    def names(function: Callable[..., Any]) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    # A transaction's database is where its records are: it stays.
    for cls in (everstep.Step, everstep.PlainStep):
        assert ["function", *names(cls.options)] == names(everstep.App.step)
    for tx in (everstep.Transaction, everstep.PlainTransaction):
        assert ["function", *names(tx.options), "database"] == names(everstep.App.transaction)
