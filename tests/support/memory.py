"""How much memory the processes of a fleet take: each from when it serves, and at its most."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path

from support.fleet import Fleet


@dataclass
class Memory:
    """Of workers that were seen serving, in MiB by process id."""

    fleet: Fleet
    at_first: dict[int, float] = field(default_factory=dict)
    at_most: dict[int, float] = field(default_factory=dict)

    async def watch(self, every: float = 0.5) -> None:
        """For ever."""
        while True:
            self.look()
            await asyncio.sleep(every)

    def look(self) -> None:
        for worker in self.fleet.working():
            if now := resident(worker.pid):
                self.at_first.setdefault(worker.pid, now)
                self.at_most[worker.pid] = max(now, self.at_most.get(worker.pid, 0.0))

    def growth(self) -> float:
        """The most that any of them grew by."""
        return max(self.at_most[pid] - self.at_first[pid] for pid in self.at_first)

    def __str__(self) -> str:
        return (
            f"{len(self.at_first)} workers of {min(self.at_first.values()):.0f} MiB and at most "
            f"{max(self.at_most.values()):.0f} MiB, none grew by more than {self.growth():.1f} MiB"
        )


def resident(pid: int) -> float | None:
    """MiB; None: it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else None
