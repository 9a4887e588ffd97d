"""Long random stories of workflows and workers, told to the real statements and to an oracle, which must agree.

One rule is one statement, or what a worker does with it at once. After each the tables must be what the oracle says,
and what the statement answered too; a story ends with a sweep, and fsck finds nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from support.races import Rewrite
from support.story import Engine
from support.story_rules import Story

STORIES, MOVES = 500, 60
MORE, AT_MOST = 50, 1_000
LEAST = 100
EACH = """
start: started, start: existing, start: duplicate, restart, join, claim, claim a suspect, record, record again,
write late, end: succeeded, end: failed, end: cancelled, park: parked, tick, wake due,
send, send and die, wake, receive, start a child, await a child, get a result, cancel: cancelled, cancel: cancelling,
beat, kill, freeze, leave, give back, declare dead, rescue, bury, wake forgotten
"""
"""What so many stories have to have seen LEAST times each; else some MORE are told, to see the rarest."""


@contextmanager
def engine_of(url: str, rewrite: Rewrite = lambda sql: sql) -> Iterator[Engine]:
    engine = Engine(url, rewrite)
    yield engine
    engine.empty()
    engine.close()


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    with engine_of(database) as engine:
        yield engine


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
            report_multiple_bugs=False,
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


# A rule of the protocol taken out of a statement.
MUTANTS = {
    "a fence without the epoch": (
        "commit",
        r"ON c\.id = f\.id AND c\.epoch = f\.epoch",
        "ON c.id = f.id",
    ),
    "an end without the fence": (
        "commit",
        r"ON d\.id = f\.id AND d\.epoch = f\.epoch",
        "ON d.id = f.id",
    ),
    "checkpoints overwritten": (
        "commit",
        r"DO NOTHING RETURNING workflow_id, branch, seq",
        "DO UPDATE SET output = excluded.output RETURNING workflow_id, branch, seq",
    ),
    "a park that forgets what it saw": (
        "commit",
        r"AND \(fp\.signals < 0 OR fp\.signals = fp\.now_signals\)",
        "",
    ),
    "a park that forgets the cancellation": ("commit", r"AND NOT fp\.cancel", ""),
    "a wake that looks at the state": (
        "wake",
        r"WHERE r\.id = ANY \(%\(ids\)s::text\[\]\)",
        "WHERE r.id = ANY (%(ids)s::text[]) AND r.state = 3",
    ),
    "a release that keeps the epoch": ("release", r"epoch = r\.epoch \+ 1", "epoch = r.epoch"),
    "a rescue that forgets progress": (
        "rescue",
        r"CASE WHEN s\.progress > r\.progress THEN 1 ELSE r\.crashes \+ 1 END",
        "r.crashes + 1",
    ),
    "claims of the dead": ("claim", r"AND k\.state = 1", ""),
    "timers always due": ("wake_due", r"AND r\.wake_at <= everstep\.clock\(\)", ""),
    "a restart that keeps what was taken": (
        "restart",
        r"SET consumed_branch = NULL, consumed_seq = NULL",
        "SET topic = m.topic",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_stories_find_a_rule_that_was_taken_out(mutant: str, database: str, seed: int):
    statement, pattern, replacement = MUTANTS[mutant]

    def rewrite(sql: dict[str, bytes]) -> dict[str, bytes]:
        text, times = re.subn(pattern, replacement, sql[statement].decode())
        if times == 0:
            pytest.fail(f"the statement {statement} no longer has what this mutant changes")
        return {**sql, statement: text.encode()}

    with engine_of(database, rewrite) as engine, pytest.raises(AssertionError):
        tell(engine, seed, STORIES, MOVES, shrink=False)
