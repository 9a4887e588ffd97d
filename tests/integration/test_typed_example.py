"""examples/typed: its types are what it says, its mistakes are found where it says, and it runs."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.database import Sql
from support.pages import TOP
from support.waiting import eventually

FOLDER = TOP / "examples" / "typed"
REPORT = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(FOLDER)
    import desk
    import repairs

    yield repairs, desk
    for name in ("desk", "repairs"):
        del sys.modules[name]


@pytest.mark.slow
def test_mypy_knows_every_value_and_finds_every_mistake() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-pretty"]
    paths = os.pathsep.join([str(TOP / "runtime"), str(FOLDER)])
    files = sorted(str(path) for path in FOLDER.glob("*.py"))
    done = subprocess.run(
        [*command, *files],
        cwd=TOP,
        env={**os.environ, "MYPYPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for report in REPORT.finditer(done.stdout):
        found[Path(report["file"]).name, int(report["line"])].add(report["code"])
    assert found == expected(), done.stdout + done.stderr


def expected() -> dict[tuple[str, int], set[str]]:
    """The marked lines of wrong.py and their codes; nothing in the other files."""
    marks = {}
    for number, line in enumerate((FOLDER / "wrong.py").read_text().splitlines(), 1):
        if "  # error: " in line:
            marks["wrong.py", number] = set(line.partition("  # error: ")[2].split(", "))
    assert len(marks) > 40
    return marks


async def test_it_runs(shop, worker, database: str, sql: Sql) -> None:
    repairs, desk = shop
    sql("CREATE TABLE bill (bike int, cents int)")
    await worker(repairs.app)
    bills = await asyncio.wait_for(desk.open_desk(database), 60)
    assert [(bill.bike, bill.cents) for bill in bills] == [(1, 400), (2, 1_500)]
    month = await asyncio.to_thread(desk.close_month, database, [1, 2, 3])
    assert (month["sum"], month["ink"]) == (1_900, 300)
    await eventually(lambda: sql.one("SELECT count(*) FROM everstep.run") == 0)
