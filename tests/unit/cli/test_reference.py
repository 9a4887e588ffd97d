"""docs/reference/cli.md is what the commands themselves say."""

from __future__ import annotations

import subprocess
import sys

from support.command import RUNTIME, environment

SCRIPT = RUNTIME.parent / "scripts" / "cli_reference.py"


def test_the_reference_is_fresh():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
