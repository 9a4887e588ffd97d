"""A declaration that nobody can follow is refused where it is written, with what to write instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from everstep import App, CatchUp, Database, Isolation, Overlap, Rate, UsageError


async def at(tick: datetime) -> None: ...


async def book(tx: Any, cents: int) -> None: ...


SCHEDULES: list[tuple[dict[str, Any], str]] = [
    ({"every": 5}, r"every= takes a timedelta, such as timedelta\(minutes=5\), not 5"),
    ({"every": timedelta(minutes=1), "catch_up": "some"}, r"CatchUp\.all\(n\), not 'some'"),
    ({"every": timedelta(minutes=1), "catch_up": "latest"}, r"CatchUp\.LATEST"),
    ({"every": timedelta(minutes=1), "overlap": "nope"}, r"Overlap\.CANCEL_PREVIOUS, not 'nope'"),
    ({"every": timedelta(minutes=1), "name": ""}, "printable name without a colon, not ''"),
    ({"every": timedelta(minutes=1), "name": 4}, "printable name without a colon, not 4"),
]


@pytest.mark.parametrize(("options", "says"), SCHEDULES)
def test_a_schedule_that_makes_no_sense(options, says):
    with pytest.raises(UsageError, match=says):
        App("test").schedule(**options)(at)


def test_a_schedule_says_when():
    app = App("test")
    with pytest.raises(UsageError, match="says when"):
        app.schedule(at)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a text such as '0 7"):
        app.schedule(5)(at)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a name such as 'Europe/Paris', not datetime"):
        App("test").schedule("0 7 * * *", timezone=UTC)(at)  # type: ignore[arg-type]


def test_an_overlap_may_be_its_word():
    app = App("test")
    app.schedule("0 7 * * *", overlap="skip", name="daily")(at)  # type: ignore[arg-type]
    assert app.schedules["daily"].overlap is Overlap.SKIP


TRANSACTIONS: list[tuple[dict[str, Any], str]] = [
    ({"isolation": "nope"}, r"Isolation\.SERIALIZABLE, not 'nope'"),
    ({"database": "ledger"}, r"database= takes everstep\.Database\(…\), not 'ledger'"),
]


@pytest.mark.parametrize(("options", "says"), TRANSACTIONS)
def test_a_transaction_that_makes_no_sense(options, says):
    with pytest.raises(UsageError, match=says):
        App("test").transaction(**options)(book)


def test_a_transaction_that_makes_sense():
    chosen = {"isolation": Isolation.SERIALIZABLE, "database": Database("ledger")}
    assert App("test").transaction(**chosen)(book).isolation is Isolation.SERIALIZABLE


def test_other_values_of_the_wrong_type():
    with pytest.raises(UsageError, match="a rate is per a timedelta"):
        Rate(5, per=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 to 10,000 ticks, not '3'"):
        CatchUp.all("3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="non-empty name, not 3"):
        App(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bytes, not '1MB'"):
        App("test", max_payload="1MB")  # type: ignore[arg-type]


async def _counted() -> AsyncIterator[int]:
    yield 1


def _count() -> Iterator[int]:
    yield 1


class _Machine: ...


@pytest.mark.parametrize("what", ["workflow", "step", "transaction"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (_counted, "_counted is a generator, and what it yields is not recorded"),
        (_count, "_count is a generator"),
        (_Machine, "goes above a function, not <class"),
        (7, "goes above a function, not 7"),
        (partial(_count), "goes above a function, not functools.partial"),
    ],
)
def test_what_has_no_outcome_is_refused_where_it_is_declared(
    what: str, given: Any, told: str
) -> None:
    decorate = getattr(App("wrong"), what)
    for declare in (decorate, decorate(name="named")):
        with pytest.raises(UsageError, match=told):
            declare(given)


def test_a_generator_is_no_schedule_either() -> None:
    with pytest.raises(UsageError, match="workflow _counted is a generator"):
        App("wrong").schedule("* * * * *")(_counted)
