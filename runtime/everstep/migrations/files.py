"""Migration files: their names, order, checksum and statements. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from everstep.errors import MigrationError

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql\Z")
# In the comment a file begins with.
_OLDEST_CODE = re.compile(r"\A(?:\s*--[^\n]*\n)*?\s*--\s*everstep:\s*oldest-code\s+(\d+)\b")
_OUTSIDE_TRANSACTION = re.compile(r"\A\s*--\s*everstep:\s*no-transaction\b")
# Where a semicolon does not end a statement: strings, quoted names, dollar quotes, comments. Words are tokens
# too, because a dollar sign inside one begins no quote, and because of the bodies of BEGIN ATOMIC … END.
_TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|(?P<word>[^\W\d][\w$]*)|(?P<dollar>\$(?:[^\W\d]\w*)?\$)"""
    r"""|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|(?P<comment>/\*)|(?P<end>;)""",
    re.DOTALL,
)
_COMMENT_MARK = re.compile(r"/\*|\*/")


class SqlSource(Protocol):
    """A file of a folder, or of a package."""

    @property
    def name(self) -> str: ...
    def read_text(self, encoding: str | None = None) -> str: ...


@dataclass(frozen=True)
class Migration:
    """One file. `transactional`: all of it commits at once, with its row in the ledger."""

    number: int
    file: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        return not _OUTSIDE_TRANSACTION.match(self.text)

    @property
    def oldest_code(self) -> int:
        """The oldest code, by its newest engine migration, that may run once this one is applied.

        A file says so by `-- everstep: oldest-code N` in its first comment; without that only code that brings
        the file itself may.
        """
        mark = _OLDEST_CODE.match(self.text)
        return int(mark[1]) if mark else self.number

    def statements(self) -> list[str]:
        """The file's statements, in order, without empty ones."""
        return split_statements(self.text)


def split_statements(text: str) -> list[str]:
    """SQL text cut at the semicolons that end statements."""
    found: list[str] = []
    start = position = depth = 0
    before = ""
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token["dollar"]:
            closing = text.find(token[0], position)
            position = len(text) if closing < 0 else closing + len(token[0])
        elif token["comment"]:
            position = _end_of_comment(text, position)
        elif token["word"]:
            word = token[0].upper()
            depth += _nesting(before, word, depth)
            before = word
        elif token["end"] and not depth:
            found.append(text[start:position].strip())
            start = position
    found.append(text[start:].strip())
    return [statement for statement in found if _says_something(statement)]


def _nesting(before: str, word: str, depth: int) -> int:
    """How a word changes the depth inside BEGIN ATOMIC … END, in which CASE … END may stand."""
    if (before, word) == ("BEGIN", "ATOMIC"):
        return 1
    return {"CASE": 1, "END": -1}.get(word, 0) if depth else 0


def _end_of_comment(text: str, position: int) -> int:
    """Past the end of a block comment that was just opened; they nest."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, position):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(text)


def _says_something(statement: str) -> bool:
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", "", statement, flags=re.DOTALL)
    return bool(bare.strip(" \t\r\n;"))


def read_folder(folder: Path) -> list[Migration]:
    """The user's migrations in a folder. Raises MigrationError naming what is wrong with it."""
    if not folder.is_dir():
        raise bad_files(
            f"there is no folder {folder}", "Check --files, and that the image contains it."
        )
    strange = [f.name for f in folder.glob("*.sql") if not _FILE.match(f.name)]
    if strange:
        raise bad_files(
            f"{folder}: {', '.join(sorted(strange))} is not named NNNN_what.sql",
            "Name files by a four-digit number and lower-case words, for example 0003_add_status.sql.",
        )
    found = parse([f for f in folder.iterdir() if _FILE.match(f.name)])
    if not found:
        raise bad_files(f"{folder} holds no NNNN_what.sql file", "Add one, or leave --files away.")
    return found


def parse(sources: Sequence[SqlSource]) -> list[Migration]:
    """Migrations in the order of their numbers. Raises MigrationError if two share one."""
    found: dict[int, Migration] = {}
    for source in sorted(sources, key=lambda f: f.name):
        match = _FILE.match(source.name)
        assert match is not None
        number = int(match[1])
        if number in found:
            raise bad_files(
                f"{found[number].file} and {source.name} have the same number",
                "Renumber one of them.",
            )
        found[number] = Migration(number, source.name, source.read_text(encoding="utf-8"))
    return list(found.values())


def bad_files(message: str, remedy: str) -> MigrationError:
    return MigrationError({"code": "BadFiles", "message": message, "remedy": remedy})
