"""The command `everstep` as a test calls it: in this process, or as one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import everstep
from everstep.cli.main import main

RUNTIME = Path(everstep.__file__).parents[1]


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Everstep = Callable[..., Said]


def in_process(capsys: pytest.CaptureFixture[str]) -> Everstep:
    """`run("workflow", "list")` in this process: quick, same code from main() on."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process that finds this everstep and no database by accident."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EVERSTEP_")}
    return {**kept, "PYTHONPATH": str(RUNTIME), "PYTHONUNBUFFERED": "1", **(extra or {})}


def spawn(
    *arguments: str, cwd: Path, out: Path | int = subprocess.PIPE, **extra: str
) -> subprocess.Popen[str]:
    """The command as a process; both of its outputs go to `out`."""
    command = [sys.executable, "-m", "everstep.cli.main", *arguments]
    sink = out.open("w") if isinstance(out, Path) else None
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL if sink else subprocess.PIPE,
            env=environment(extra),
            stdout=sink or out,
            stderr=subprocess.STDOUT if sink else out,
            text=True,
            process_group=0,
        )
    finally:
        if sink:
            sink.close()


def assert_told(said: Said, code: int, *words: str) -> None:
    """The user's mistake: its code, one line of what, one of what to do, no traceback, nothing on stdout."""
    assert said.code == code, said
    assert "Traceback" not in said.err, said.err
    assert said.out == ""
    what = [n for n, line in enumerate(said.lines) if line.startswith("error: ")]
    assert len(what) == 1, said.err
    assert len(said.lines) == what[0] + 2, f"a line of what, a line of what to do: {said.err}"
    assert said.lines[-1].startswith("  ")
    for word in words:
        assert word in said.err, said.err
