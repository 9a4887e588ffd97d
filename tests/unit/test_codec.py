"""A value is rejected, or it comes back as itself, on the first run and on every replay."""

from __future__ import annotations

import dataclasses
import enum
import math
import typing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.codec import Arguments, Payload, encode_plain
from everstep.errors import PayloadError, UsageError

LIMIT = 1_048_576

ODD = (
    st.binary()
    | st.just(float("nan"))
    | st.just(float("inf"))
    | st.complex_numbers()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.uuids()
    | st.datetimes()
    | st.tuples(st.integers())
    | st.frozensets(st.integers())
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(
        [object(), print, range(3), ..., Decimal(1), type, -0.0, 2**63, 2**64, 10**400]
    )
)
ANY = st.recursive(
    st.none() | st.booleans() | ODD,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)


def same(left: object, right: object) -> bool:
    """Equal in type, value and sign, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        assert isinstance(right, dict)
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        assert isinstance(right, list)
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        assert isinstance(right, float)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@settings(max_examples=400, deadline=None)
@given(ANY)
def test_without_an_annotation_a_value_is_rejected_or_comes_back_as_itself(value):
    payload = Payload(typing.Any, "test")
    try:
        body, first = payload.round_trip(value, LIMIT)
    except PayloadError:
        return
    assert same(first, value)
    assert same(payload.decode(body), first)


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal
    tags: list[str] = dataclasses.field(default_factory=list)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    id: UUID
    at: datetime
    day: date
    lines: list[Line]
    colour: Colour
    label: bytes
    note: str | None = None
    took: timedelta = timedelta(0)


ORDERS = st.builds(
    Order,
    id=st.uuids(),
    at=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    lines=st.lists(
        st.builds(
            Line,
            sku=st.text(st.characters(exclude_categories=("Cs",))),
            price=st.decimals(allow_nan=False, allow_infinity=False),
        ),
        max_size=3,
    ),
    colour=st.just(Colour.RED),
    label=st.binary(),
    note=st.none() | st.text(st.characters(exclude_categories=("Cs",))),
    took=st.timedeltas(timedelta(days=-1000), timedelta(days=1000)),
)


@settings(max_examples=150, deadline=None)
@given(ORDERS)
def test_an_annotated_value_is_rebuilt_as_it_was(order):
    payload = Payload(Order, "test")
    body, first = payload.round_trip(order, LIMIT)
    assert first == order
    assert payload.decode(body) == order


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[str], {"a", "b"}),
        (tuple[int, str], (1, "a")),
        (dict[int, str], {1: "a"}),
        (PurePosixPath, PurePosixPath("/a/b")),
        (int | None, None),
        (list[Order] | str, "x"),
        (typing.Literal["a", "b"], "b"),
    ],
)
def test_annotations_that_can_be_rebuilt(annotation, value):
    assert Payload(annotation, "test").round_trip(value, LIMIT)[1] == value


def test_an_annotation_that_cannot_be_rebuilt_is_an_error_when_it_is_read():
    with pytest.raises(UsageError, match="not a type that a payload can be rebuilt from"):
        Payload(dict[str, set[list[int]]] | list[Order] | set[int], "result of step x")


def test_a_value_that_does_not_fit_its_annotation_is_refused():
    with pytest.raises(PayloadError, match="does not fit its annotation"):
        Payload(int, "result of step x").round_trip("seven", LIMIT)


def test_a_payload_may_be_as_large_as_the_limit_and_no_larger():
    assert encode_plain("x" * 98, "test", 100) == b'"' + b"x" * 98 + b'"'
    with pytest.raises(PayloadError, match=r"101 bytes, the limit is 100"):
        encode_plain("x" * 99, "test", 100)


def test_a_cycle_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(PayloadError):
        encode_plain(loop, "test", LIMIT)


def test_arguments_are_recorded_by_name_with_their_defaults():
    def function(a: int, b: str = "x", *, c: list[int] | None = None) -> None: ...

    arguments = Arguments(function, "test")
    body = arguments.encode((1,), {}, LIMIT)
    assert body == b'{"a":1,"b":"x","c":null}'
    assert arguments.decode(body) == ([1, "x"], {"c": None})
    assert arguments.decode(b'{"a":1}') == ([1, "x"], {"c": None})


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"a": 2}), ((1,), {"z": 2})]
)
def test_a_call_that_does_not_fit_is_a_usage_error(args, kwargs):
    def function(a: int, b: int = 0) -> None: ...

    with pytest.raises(UsageError):
        Arguments(function, "workflow test").encode(args, kwargs, LIMIT)


@pytest.mark.parametrize("odd", ["sNaN", "NaN"])
def test_an_argument_that_is_not_equal_to_itself_is_refused(odd):
    def function(a: Decimal) -> None: ...

    with pytest.raises(PayloadError, match="would come back as"):
        Arguments(function, "workflow w").encode((Decimal(odd),), {}, LIMIT)


@pytest.mark.parametrize(
    ("annotation", "one", "same"),
    [
        (dict[int, str], {2: "b", 10: "a"}, {10: "a", 2: "b"}),
        (dict[UUID, set[int]], {UUID(int=2): {9, 1}, UUID(int=1): set()}, None),
        (dict[date, Decimal], {date(2026, 5, 2): Decimal("1.10"), date(2026, 5, 1): 0}, None),
        (dict[str, dict[float, bytes]], {"x": {2.5: b"b", 1.5: b"a"}}, None),
    ],
)
def test_keys_that_are_no_texts_come_back_and_their_order_makes_no_other_input(
    annotation, one, same
):
    def function(zone, a=None): ...

    function.__annotations__ = {"a": annotation}
    arguments = Arguments(function, "workflow w")
    body = arguments.encode(("z", one), {}, LIMIT)
    assert arguments.decode(body) == (["z", one], {})
    same = same or dict(reversed(one.items()))
    assert arguments.encode(("z", same), {}, LIMIT) == body
    assert body.startswith(b'{"zone":"z","a":{')


@pytest.mark.parametrize("key", [None, (1, 2), True, frozenset()])
def test_keys_that_json_has_no_text_for_are_refused(key):
    def function(a: dict[typing.Any, int]) -> None: ...

    with pytest.raises(PayloadError, match=r"cannot be recorded as JSON \(Only dicts with"):
        Arguments(function, "workflow w").encode(({key: 1},), {}, LIMIT)


def test_an_object_is_any_json_value():
    def function(a: object, b: dict[str, object]) -> object: ...

    arguments = Arguments(function, "workflow w")
    body = arguments.encode(([1, None], {"x": {"y": 2.5}}), {}, LIMIT)
    assert arguments.decode(body) == ([[1, None], {"x": {"y": 2.5}}], {})
    with pytest.raises(PayloadError, match="would come back as"):
        arguments.encode(((1, 2), {}), {}, LIMIT)
    payload = Payload(object, "result of step s")
    assert payload.round_trip({"x": [1]}, LIMIT)[1] == {"x": [1]}
    with pytest.raises(PayloadError, match=r"would come back as .* Annotate it with its type"):
        payload.round_trip((1, 2), LIMIT)
    assert Payload(list[object], "r").round_trip([1, "x", None], LIMIT)[1] == [1, "x", None]


def test_a_message_that_is_no_json_value_is_refused_with_how_to_make_it_one():
    with pytest.raises(PayloadError, match=r"msgspec\.to_builtins.*as_type=") as refused:
        encode_plain(datetime(2026, 5, 1, tzinfo=UTC), "message of topic 't'", LIMIT)
    assert "Annotate" not in str(refused.value)


def test_a_mutable_default_is_not_shared():
    def function(a: list[int] = []) -> None: ...  # noqa: B006

    arguments = Arguments(function, "test")
    (first,), _ = arguments.decode(b"{}")
    first.append(1)
    assert arguments.decode(b"{}") == ([[]], {})


def test_unknown_and_variable_parameters_are_refused():
    def many(*args: int) -> None: ...

    def function(a: int) -> None: ...

    with pytest.raises(UsageError, match="args"):
        Arguments(many, "test")
    with pytest.raises(PayloadError):
        Arguments(function, "test").decode(b'{"a":1,"b":2}')


def test_equal_sets_and_dicts_are_equal_inputs():
    def function(a: set[str], b: dict[str, int]) -> None: ...

    arguments = Arguments(function, "test")
    body = arguments.encode(({"c", "a", "b"}, {"y": 2, "x": 1}), {}, LIMIT)
    assert body == b'{"a":["a","b","c"],"b":{"x":1,"y":2}}'
