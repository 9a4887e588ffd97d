"""Workflows that keep crashing their workers: claimed one after the other, each when the last is no danger any more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from everstep.engine.suspects import Suspects


class Runner:
    """A runner whose workflows are no danger once `progress` is called, and gone after `leave`."""

    def __init__(self) -> None:
        self.executions: dict[str, bool] = {}
        self.freed = asyncio.Event()

    def safe(self) -> bool:
        return all(self.executions.values())

    def progress(self) -> None:
        self.executions = dict.fromkeys(self.executions, True)

    def leave(self) -> None:
        self.executions.clear()
        self.freed.set()


def suspects_of(runner: Any, waiting: list[str]) -> Suspects:
    async def claim(offer: Any, priority: int | None) -> bool:
        assert runner.safe(), "one that has not progressed is still here"
        if not waiting:
            return False
        runner.executions[waiting.pop(0)] = False
        asyncio.get_running_loop().call_soon(runner.progress)
        return True

    return Suspects(runner, claim, lambda: False)


OFFERED: list[Any] = [SimpleNamespace(suspects=[1])]


async def test_an_idle_worker_runs_all_of_them_one_after_the_other():
    waiting = [f"s{n}" for n in range(20)]
    assert await suspects_of(Runner(), waiting).run_some(OFFERED) == 20
    assert waiting == []


async def test_a_busy_worker_takes_none_before_it_has_been_patient():
    runner = Runner()
    runner.executions["innocent"] = True
    waiting = ["s"]
    assert await suspects_of(runner, waiting).run_some(OFFERED) == 0
    assert waiting == ["s"]


async def test_a_busy_worker_that_has_been_patient_finishes_what_it_has_and_then_runs_all_of_them():
    runner = Runner()
    runner.executions["innocent"] = True
    waiting = ["s1", "s2", "s3"]
    suspects = suspects_of(runner, waiting)
    suspects._due = 0
    asyncio.get_running_loop().call_later(0.01, runner.leave)
    assert await suspects.run_some(OFFERED) == 3
    assert "innocent" not in runner.executions


async def test_other_work_has_its_turn_after_a_while(monkeypatch):
    monkeypatch.setattr("everstep.engine.suspects.TURN_SECONDS", 0.05)
    waiting = ["s"] * 1_000_000
    assert 0 < await suspects_of(Runner(), waiting).run_some(OFFERED) < 1_000_000
