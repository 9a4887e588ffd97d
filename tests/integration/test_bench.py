"""The benchmark runs, and compares: what it measures is for people to read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ("direct", "latency", "parked", "wake-many", "limit-10", "ticks", "fan-out", "start-many")


@pytest.mark.slow
def test_bench_measures_this_checkout_beside_another() -> None:
    only = [option for row in ROWS for option in ("--only", row)]
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests/bench/run.py",
            *("--against", str(ROOT), "--turns", "1", "--size", "0.002", "-o", "json", *only),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    figures = json.loads(done.stdout)
    assert figures.pop("bare_commit_ms") > 0
    assert len(figures) == 12
    for title, sides in figures.items():
        for side in ("everstep", "earlier"):
            assert len(sides[side]) == 1, (title, side)


def test_bench_says_what_is_no_checkout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests/bench/run.py", "--against", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no runtime/everstep in it" in done.stderr
