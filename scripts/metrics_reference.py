#!/usr/bin/env python3
"""metrics_reference.py [--check]: write docs/reference/metrics.md, or only say whether it is fresh."""

from __future__ import annotations

import sys
from pathlib import Path

from everstep.metrics.reference import page

TARGET = Path(__file__).parent.parent / "docs/reference/metrics.md"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: scripts/metrics_reference.py [--check]\n")
        return 2
    if not arguments:
        TARGET.write_text(page())
    elif not TARGET.is_file() or TARGET.read_text() != page():
        sys.stderr.write(
            "docs/reference/metrics.md is not fresh: run scripts/metrics_reference.py\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
