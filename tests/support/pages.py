"""The documentation's code blocks, and what each of them promises a test.

An HTML comment right above a block says what is special about it:

    <!-- e2e: why -->            commands that need a cluster; the end-to-end suite runs the same steps
    <!-- not run: why -->        cannot run here; the reason is part of the page's source
    <!-- raises: NameError -->   a mistake on purpose
    <!-- index: name -->         SQL whose plan must use this index
    <!-- no rows -->             SQL that may come back empty
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parent.parent.parent

RUN = ("python", "sh", "sql", "yaml", "json")
LOOKED_AT = ("text", "mermaid")
"""Languages of blocks that are pictures or output."""

COMMANDS = (
    "everstep", "kubectl", "helm", "make", "pip", "git", "psql", "docker", "buildah", "export", "cd",
    "python", "curl", "kill",
)  # fmt: skip

_MARK = re.compile(r"<!-- (e2e|not run|raises|index|no rows)(?:: (.+))? -->")


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` and `remark`: the comment above it, in two parts."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    remark: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(TOP)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block shows, where its first line names one: `# app.py`."""
        match = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return match[1] if match else None


def pages() -> list[Path]:
    """The README and everything under docs/."""
    return [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """A page's blocks, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    above, lines = "", enumerate(page.read_text().splitlines(), 1)
    for number, line in lines:
        if line.startswith("```"):
            mark = _MARK.fullmatch(above)
            body: list[str] = []
            for _, text in lines:
                if text.startswith("```"):
                    break
                body.append(text)
            yield Block(
                page,
                number,
                line[3:].strip(),
                "\n".join(body) + "\n",
                mark[1] if mark else "",
                (mark[2] or "") if mark else "",
            )
        if line.strip():
            above = line.strip()
