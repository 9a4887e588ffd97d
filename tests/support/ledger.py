"""A ledger outside the database: what really ran, whoever believed to own it. Lines appended in one write each."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One execution of a step: who, which, and when it began."""

    key: str
    token: str
    began: float
    pid: int


class Ledger:
    """Entries in a file that many processes append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, key: str, token: str, began: float | None = None) -> None:
        """Append one line; it is there even if this process is killed right afterwards."""
        moment = time.time() if began is None else began
        os.write(self._file, f"{key} {token} {moment!r} {os.getpid()}\n".encode())

    def entries(self) -> list[Entry]:
        found = []
        for line in self._path.read_text().splitlines():
            key, token, began, pid = line.split(" ")
            found.append(Entry(key, token, float(began), int(pid)))
        return found

    def executions(self) -> Counter[str]:
        """How often each key was executed."""
        return Counter(entry.key for entry in self.entries())

    def close(self) -> None:
        os.close(self._file)
