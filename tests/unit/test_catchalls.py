"""Handlers that catch everything are found in the source of a function, and no others."""

from __future__ import annotations

import builtins
import contextlib

from everstep.catchalls import catchalls


def called() -> None: ...


async def bare() -> None:
    try:
        called()
    except:  # noqa: E722
        called()


async def by_name() -> None:
    with contextlib.nullcontext():
        try:
            await bare()
        except ValueError:
            raise
        except BaseException as error:  # noqa: BLE001
            print(error)


def in_a_function_of_its_own() -> None:
    async def task() -> None:
        try:
            await bare()
        except (OSError, builtins.BaseException):  # noqa: BLE001
            return

    called()
    print(task)


async def in_a_group() -> None:
    try:
        await bare()
    except* BaseException:  # noqa: BLE001
        called()


def safe() -> None:
    number = 1
    try:
        called()
    except Exception:  # noqa: BLE001
        called()
    try:
        called()
    except BaseException:
        if number:
            called()
        raise
    try:
        number = 1 // number
    except:  # noqa: E722
        number = 0


def lines_of(function) -> list[int]:
    first = function.__code__.co_firstlineno
    places = catchalls(function)
    assert all(place.startswith(f"{__file__}:") for place in places)
    return [int(place.rpartition(":")[2]) - first for place in places]


def test_what_catches_everything_is_found_where_it_is():
    assert lines_of(bare) == [3]
    assert lines_of(by_name) == [6]
    assert lines_of(in_a_function_of_its_own) == [4]
    assert lines_of(in_a_group) == [3]


def test_what_raises_again_or_calls_nothing_is_left_alone():
    assert lines_of(safe) == []


def test_a_function_without_source_is_left_alone():
    made: dict[str, object] = {}
    exec("def f():\n    try:\n        print()\n    except:\n        pass", made)
    assert catchalls(made["f"]) == []  # type: ignore[arg-type]
    assert catchalls(len) == []
