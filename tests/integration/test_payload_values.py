"""Whatever a step returns, it is refused or it comes back as itself, and nobody beside it notices. And sizes."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import typing
from collections import Counter, defaultdict
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import hypothesis
import pytest
from conftest import StartWorker
from hypothesis import given, settings
from hypothesis import strategies as st
from support.database import Sql
from support.waiting import eventually

import everstep
from everstep import App, Client, PayloadError, StepError, WorkflowError

LIMIT = 4_096
EXAMPLES = 2_000
HOUR = 3_600


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Leaf:
    name: str
    cents: Decimal
    label: bytes
    at: datetime
    colour: Colour
    pair: tuple[int, str]


@dataclasses.dataclass
class Tree:
    leaves: list[Leaf]
    by_number: dict[int, Leaf]
    path: PurePosixPath
    tags: set[str]


def cycle() -> list[object]:
    loop: list[object] = []
    loop.append({"again": loop})
    return loop


TEXT = st.text(st.characters(exclude_categories=()))
NEAR_THE_LIMIT = st.integers(LIMIT - 20, LIMIT + 20).map(lambda n: "x" * n)
LEAVES = st.builds(
    Leaf, name=TEXT, cents=st.decimals(), label=st.binary(), at=st.datetimes(),
    colour=st.sampled_from(Colour), pair=st.tuples(st.integers(), TEXT),
)  # fmt: skip
TREES = st.builds(
    Tree, leaves=st.lists(LEAVES, max_size=2), by_number=st.dictionaries(st.integers(), LEAVES, max_size=2),
    path=TEXT.map(PurePosixPath), tags=st.sets(TEXT, max_size=3),
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary() | st.decimals()
    | st.uuids() | st.datetimes() | st.dates() | st.times() | st.timedeltas() | NEAR_THE_LIMIT
    | st.sampled_from([Colour.RED, 2**63, 2**64, -(2**200), 10**400, "a\0b", "\ud800", object(), print, ...])
    | TEXT.map(PurePosixPath) | st.builds(cycle)
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
    | st.tuples(inner, inner),
    max_leaves=6,
) | LEAVES  # fmt: skip
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "any": (Any, ANYTHING),
    "float": (float, st.floats() | st.integers()),
    "integer": (int, st.integers() | st.sampled_from([2**64, -(2**200), True])),
    "text": (str, TEXT | NEAR_THE_LIMIT),
    "bytes": (bytes, st.binary() | st.integers(3_000, 3_100).map(bytes)),
    "decimal": (Decimal, st.decimals()),
    "uuid": (UUID, st.uuids()),
    "moments": (tuple[datetime, date, time, timedelta],
                st.tuples(st.datetimes(), st.dates(), st.times(), st.timedeltas())),
    "pair": (tuple[int, str], st.tuples(st.integers(), TEXT)),
    "path": (PurePosixPath, TEXT.map(PurePosixPath)),
    "colour": (Colour, st.sampled_from(Colour)),
    "tree": (Tree, TREES),
    "wrong": (Tree, ANYTHING),
}  # fmt: skip
VALUES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), KINDS[kind][1])
)


def generated(seed: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    @hypothesis.seed(seed)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[hypothesis.Phase.generate],
              suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @given(VALUES)
    def collect(value: tuple[str, Any]) -> None:
        found.append(value)

    collect()
    return found


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and sign, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    if isinstance(one, Decimal | float):
        return str(one) == str(
            other
        )  # with its sign; a signalling NaN lets itself not even be compared
    return bool(one == other)


@pytest.mark.slow
async def test_a_value_is_refused_or_is_itself_at_first_and_on_replay(
    worker: StartWorker, client: Client, sql: Sql, seed: int
) -> None:
    values = generated(seed)
    app = App("values", max_payload=LIMIT)
    seen: defaultdict[int, list[Any]] = defaultdict(list)

    def step_of(kind: str) -> Any:
        async def give(number: int) -> Any:
            return values[number][1]

        give.__annotations__["return"] = KINDS[kind][0]
        return app.step(name=kind)(give)

    steps = {kind: step_of(kind) for kind in KINDS}

    @app.step
    async def neighbour(number: int) -> list[int]:
        return [number, -number]

    async def given_by(number: int) -> tuple[str, Any]:
        try:
            return "taken", await steps[values[number][0]](number)
        except StepError as error:
            return "refused", error.failure.type

    @app.workflow(name="flow")
    async def flow(number: int) -> list[int]:
        left, outcome, right = await asyncio.gather(
            neighbour(number), given_by(number), neighbour(number + 1)
        )
        seen[number].append(outcome)
        await everstep.sleep(HOUR)  # parks: the log is read again
        return left + right

    await worker(app, concurrency=500)
    handles = await client.start_many(flow, [(number,) for number in range(len(values))], id="v")
    parked = "SELECT count(*) FROM everstep.run WHERE state = 3"
    await eventually(lambda: sql.one(parked) == len(values), within=120, pause=0.1)
    sql.advance_clock(HOUR + 1)
    results = await asyncio.gather(*[handle.result(120) for handle in handles])
    assert results == [[n, -n, n + 1, -n - 1] for n in range(len(values))]
    told: Counter[str] = Counter()
    for number, (kind, value) in enumerate(values):
        first, *again = seen[number]
        assert again, (kind, value)
        assert all(same(first, each) for each in again), (kind, value, seen[number])
        told[first[0]] += 1
        if first[0] == "refused":
            assert first[1] == "everstep.errors.PayloadError", (kind, value, first)
        elif kind not in ("float", "wrong"):
            assert same(first[1], value), (kind, value, first)
    print(f"{len(values)} values: {dict(told)}")
    assert min(told["taken"], told["refused"]) > len(values) / 10
    assert sql.one("SELECT count(*) FROM everstep.workflow WHERE status = 1") == len(values)


# -- sizes ---------------------------------------------------------------------------------------

BIG = "x" * 2_000
TOLD = r"the payload is 2,0\d\d bytes, the limit is 1,000"


@pytest.fixture
async def small(database: str) -> typing.AsyncIterator[Client]:
    async with Client.connect(database, max_payload=1_000) as client:
        yield client


async def test_what_is_too_large_is_refused_with_its_size_and_the_limit(
    worker: StartWorker, small: Client
) -> None:
    app = App("small", max_payload=1_000)

    @app.step
    async def step() -> str:
        return BIG

    @app.transaction
    async def transact(tx: everstep.Connection) -> str:
        return BIG

    @app.workflow
    async def take(word: str) -> str:
        return word

    async def give() -> str:
        return BIG

    async def continued() -> None:
        everstep.continue_as_new(BIG)

    said: dict[str, Any] = {
        "step": step,
        "transaction": transact,
        "result": give,
        "child": lambda: take(BIG),
        "message": lambda: everstep.send("nobody", BIG),
        "event": lambda: everstep.set_event("e", BIG),
        "stream": lambda: everstep.write_stream("s", BIG),
        "input": continued,
    }

    @app.workflow
    async def inside(kind: str) -> Any:
        return await said[kind]()

    await worker(app)
    handles = [await small.start(inside, kind) for kind in said]
    for handle in handles:
        with pytest.raises(WorkflowError, match=TOLD):
            await handle.result(30)
    with pytest.raises(PayloadError, match=TOLD):
        await small.start(take, BIG)
    with pytest.raises(PayloadError, match=TOLD):
        await small.send(handles[0].id, BIG)
    with pytest.raises(PayloadError, match=r"attributes .* the limit is 65,536"):
        await small.start(take, "x", attributes={"a": "x" * 70_000})


async def test_an_error_is_cut_rather_than_refused(worker: StartWorker, small: Client) -> None:
    """What failed is known, whatever it said."""
    app = App("small", max_payload=1_000)

    @app.step
    async def step() -> None:
        raise ValueError("é" * 100_000 + "\ud800\0")

    @app.workflow
    async def fail() -> None:
        await step()

    await worker(app)
    with pytest.raises(WorkflowError, match="100003 characters") as failed:
        await (await small.start(fail)).result(30)
    assert len(str(failed.value)) < 20_000
