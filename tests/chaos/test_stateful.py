"""Long random stories of workflows and workers, told to the real statements and to an oracle, which must agree.

One rule is one statement, or what a worker does with it at once. After each the tables must be what the oracle says,
and what the statement answered too; a story ends with a sweep, and fsck finds nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from support.story import Engine
from support.story_rules import Story

STORIES, MOVES = 500, 60
MORE, AT_MOST = 50, 1_000
LEAST = 100
EACH = """
start: started, start: existing, start: duplicate, restart, join, claim, claim a suspect, record, record again,
write late, late end: fenced, park: fenced, end: succeeded, end: failed, end: cancelled, park: parked, tick, wake due,
send, send and die, wake, receive, start a child, await a child, get a result, cancel: cancelled, cancel: cancelling,
cancel: finished, beat, kill, freeze, leave, declare dead, rescue, bury, wake forgotten
"""
"""What so many stories have to have seen LEAST times each; else some MORE are told, to see the rarest."""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = Engine(database)
    yield engine
    engine.empty()
    engine.close()


def tell(
    engine: Engine, number: int, stories: int, moves: int, *, shrink: bool = True
) -> Counter[str]:
    """So many stories of so many moves. Returns how often each kind of move had an effect."""
    told: Counter[str] = Counter()
    machine = seed(number)(type("TestedStory", (Story,), {"engine": engine, "told": told}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=stories,
            stateful_step_count=moves,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=shrink,
        ),
    )
    return told


def test_short_stories_agree_with_the_oracle(engine: Engine, seed: int):
    assert tell(engine, seed, 8, 30)["claim"] > 0


@pytest.mark.slow
def test_long_stories_agree_with_the_oracle(engine: Engine, seed: int):
    kinds = re.split(r",\s", EACH.strip())
    told, stories = tell(engine, seed, STORIES, MOVES), STORIES
    while stories < AT_MOST and any(told[kind] < LEAST for kind in kinds):
        told += tell(engine, seed + stories, MORE, MOVES)
        stories += MORE
    print(f"{stories} stories, {told.total()} effects of {len(told)} kinds: {told}")
    assert {kind: told[kind] for kind in kinds if told[kind] < LEAST} == {}
