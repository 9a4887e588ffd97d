"""Worker processes that are killed at a point of their own choosing: SIGKILL, before or after a statement or an effect.

A point is called `before commit 3` or `after effect 2`: the third commit this worker sends, the second time that
it runs the step `effect`. Run as a program: it imports everything once, and forks a worker for each point it reads.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from everstep import Settings, Worker
from everstep.context import Execution
from everstep.durable import performing
from everstep.store.models import CheckpointKind
from everstep.store.statements import statements
from support.crash_app import app_of
from support.ledger import Ledger

# What every worker asks again and again, whatever it runs.
BACKGROUND = {"lanes", "leases", "take_ticket", "any_due", "overdue", "due_schedules", "owned"}
_COMMIT = statements("everstep")["commit"].partition(b"\n")[0]
"""The statement is sent without the parts that its rows do not need; its first line is always there."""

MOST_OF_A_KIND = 5
"""Of statements that are repeated while a workflow waits, so many are points."""


@dataclass
class Points:
    """Counts the points this process passes; kills it at `chosen`, or writes them all into `passed`."""

    chosen: str
    passed: list[str] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        self._counts[what] += 1
        number = self._counts[what]
        self._pass(f"before {what} {number}")
        yield
        self._pass(f"after {what} {number}")

    def _pass(self, point: str) -> None:
        self.passed.append(point)
        if point == self.chosen:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Statements on any connection but the heartbeat's, both ends of a transaction, attempts, and records."""
        names = {sql: name for name, sql in statements("everstep").items()}
        # Whichever way the engine sends it, a statement passes here.
        _around_async(psycopg.AsyncCursor, "execute", self, lambda _, sql: _label(names, sql))
        _around_async(psycopg.AsyncTransaction, "__aenter__", self, lambda _: "begin")
        _around_async(psycopg.AsyncTransaction, "__aexit__", self, lambda *_: "end of transaction")
        _around_async(performing, "_attempt", self, lambda _, step: f"step {step.name}")
        record = Execution.record

        def recording(execution: Execution, row: Any, *rest: Any) -> Any:
            with self.around(f"record {CheckpointKind(row.kind).name.lower()}"):
                return record(execution, row, *rest)

        Execution.record = recording  # type: ignore[method-assign]


def _label(names: dict[bytes, str], sql: Any) -> str | None:
    text = sql if isinstance(sql, bytes) else str(sql).encode()
    if text.startswith(_COMMIT):
        return "commit"
    name = names.get(text) or text.decode().partition(" (")[0].lower()
    return None if name in BACKGROUND or name.startswith(("set", "select")) else name


def _around_async(owner: Any, name: str, points: Points, label: Callable[..., str | None]) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        what = label(*args[:2])
        if what is None:
            return await original(*args, **kwargs)
        with points.around(what):
            return await original(*args, **kwargs)

    setattr(owner, name, wrapped)


def worth_it(points: list[str]) -> list[str]:
    """The points of a run, without the later ones of what repeats itself."""
    return [point for point in points if int(point.rpartition(" ")[2]) <= MOST_OF_A_KIND]


async def run_until_killed(url: str, ledger: Path, number: int, points: Points) -> None:
    """Start the workflow and run it to its end, unless a point comes before that."""
    app = app_of([number], Ledger(ledger))
    points.install()
    settings = Settings(url=url, lease_ttl=6.0, grace=2.0, max_crashes=100, listen=False)
    async with Worker(app, settings) as worker:
        handle = await worker.client.start(
            app.workflows[f"reference-{number}"], id=f"crash-{number}"
        )
        await handle.result(timeout=60)


def _fork(url: str, ledger: Path, number: int, chosen: str, seen: Path) -> int:
    if pid := os.fork():
        return pid
    points = Points(chosen)
    code = 1
    try:
        asyncio.run(run_until_killed(url, ledger, number, points))
        seen.write_text(json.dumps(points.passed))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Reads [number, point] from each line; prints [number, "killed" | "finished" | "failed"] for each."""
    url, ledger, seen, at_once = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    running: dict[int, int] = {}
    for line in sys.stdin:
        number, chosen = json.loads(line)
        if len(running) == at_once:
            _wait(running)
        running[_fork(url, ledger, number, chosen, seen)] = number
    while running:
        _wait(running)


def _wait(running: dict[int, int]) -> None:
    pid, status = os.wait()
    how = {0: "finished", -signal.SIGKILL: "killed"}
    ended = how.get(os.waitstatus_to_exitcode(status), "failed")
    print(json.dumps([running.pop(pid), ended]), flush=True)


if __name__ == "__main__":
    main()
