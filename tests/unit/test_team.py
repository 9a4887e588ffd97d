"""How many threads of a plain workflow are active is never counted too low: it would park past one that works."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everstep.branch import Branch
from everstep.durable.team import MOST_CALLS, Team


class Counted:
    """An execution that remembers every count of its active threads."""

    def __init__(self) -> None:
        self.history = [1]
        self.parent_waits = threading.Event()
        self.steps_running = self.moves = self.branches = 0

    @property
    def threads(self) -> int:
        return self.history[-1]

    @threads.setter
    def threads(self, number: int) -> None:
        if number < self.history[-1]:
            self.parent_waits.set()
        self.history.append(number)


def team_of(execution: Counted, *calls: Any) -> Team[Any]:
    return Team(Branch(execution), calls)  # type: ignore[arg-type]


def test_a_waiting_thread_is_counted_again_the_moment_its_call_ends():
    execution = Counted()

    def call() -> str:
        assert execution.parent_waits.wait(30)
        return "done"

    assert team_of(execution, call).results() == ("done",)
    # The parent, the call; then the parent waits; the call's end is the parent's turn, without a moment between.
    assert execution.history[:3] == [1, 2, 1]
    assert set(execution.history[3:]) <= {1}


@pytest.mark.parametrize("calls", [0, 1, 2, 20])
def test_in_the_end_only_the_one_that_waited_is_active(calls):
    execution = Counted()
    assert team_of(execution, *[lambda: 7] * calls).results() == (7,) * calls
    assert execution.history[-1] == 1
    assert min(execution.history) == 1


def test_what_ended_before_anybody_waits_is_not_active():
    execution = Counted()
    ended = threading.Event()

    def call() -> None:
        ended.set()

    team = team_of(execution, call)
    assert ended.wait(30)
    assert execution.parent_waits.wait(30)  # it has counted itself out
    assert execution.history == [1, 2, 1]
    assert team.results() == (None,)
    assert execution.history[-1] == 1


def test_branches_are_numbered_in_the_order_of_the_calls():
    execution = Counted()
    branch = Branch(execution)  # type: ignore[arg-type]
    Team(branch, [lambda: None] * MOST_CALLS).results()
    assert branch.child().path == str(MOST_CALLS + 1)
