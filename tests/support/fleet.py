"""A fleet of real worker processes: started, killed, frozen, thawed, replaced; each by its own process id."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.database import Sql
from support.waiting import eventually

TESTS = Path(__file__).resolve().parents[1]
SERVES = b"probes and metrics on port"
"""What a worker says once it claims."""


@dataclass
class Fleet:
    """Workers of one application. Use as a context manager; every process is gone afterwards."""

    url: str
    folder: Path
    module: str = "support.fleet_app:app"
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    frozen: set[int] = field(default_factory=set)
    kills: int = 0
    freezes: int = 0
    started: int = 0
    _logs: dict[int, Path] = field(default_factory=dict)
    _pods: dict[int, str] = field(default_factory=dict)

    def start(self, count: int = 1, **extra: str) -> None:
        """More workers; `extra` goes into their environment."""
        for _ in range(count):
            self.started += 1
            with self._log(self.started).open("wb") as said:
                command = [sys.executable, "-m", "everstep.cli.main", "worker", self.module]
                worker = subprocess.Popen(
                    [*command, "--port", "0"],
                    env=self._environment({"EVERSTEP_POD": f"worker-{self.started}", **extra}),
                    stdout=said,
                    stderr=said,
                )
            self.workers.append(worker)
            self._logs[worker.pid] = self._log(self.started)
            self._pods[worker.pid] = f"worker-{self.started}"

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL, and wait until it is gone."""
        worker.kill()
        worker.wait()
        self.workers.remove(worker)
        self.frozen.discard(worker.pid)
        self.kills += 1

    def terminate(self, worker: subprocess.Popen[bytes], within: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        worker.terminate()
        code = worker.wait(within)
        self.workers.remove(worker)
        return code

    def freeze(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGSTOP)
        self.frozen.add(worker.pid)
        self.freezes += 1

    def thaw(self, worker: subprocess.Popen[bytes]) -> None:
        if worker.pid in self.frozen:
            self.frozen.discard(worker.pid)
            worker.send_signal(signal.SIGCONT)

    def replace(self, dead: subprocess.Popen[bytes], sql: Sql) -> None:
        """Another one for a worker that has ended; its death is declared, as by the operator: no lease is waited for."""
        self.workers.remove(dead)
        sql("SELECT everstep.declare_dead(%s)", [self._pods[dead.pid]])
        self.start()

    def awake(self) -> list[subprocess.Popen[bytes]]:
        return [worker for worker in self.workers if worker.pid not in self.frozen]

    def working(self) -> list[subprocess.Popen[bytes]]:
        """Those that are awake and have said that they serve."""
        return [worker for worker in self.awake() if SERVES in self._logs[worker.pid].read_bytes()]

    def whole(self) -> bool:
        """Whether every worker that is awake has come as far as working."""
        return len(self.working()) == len(self.awake())

    def died_by_themselves(self) -> list[int]:
        """Exit codes of workers that nobody asked to leave."""
        return [worker.returncode for worker in self.workers if worker.poll() is not None]

    def logs(self) -> str:
        """What all of them said, for a failed test."""
        return "\n".join(
            f"-- worker {n}\n{self._log(n).read_text(errors='replace')[-3000:]}"
            for n in range(1, self.started + 1)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()

    def _log(self, number: int) -> Path:
        return self.folder / f"worker-{number}.log"

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        paths = [str(TESTS), str(TESTS.parent / "runtime")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "EVERSTEP_DATABASE_URL": self.url,
            "EVERSTEP_LEASE_SECONDS": "3",
            **self.environment,
            **extra,
        }


async def kill_now_and_then(fleet: Fleet, rng: random.Random, every: float) -> None:
    """For ever: SIGKILL a random worker, and start another in its place.

    On a busy machine less often than asked: workers that are killed before they have begun prove nothing.
    """
    while True:
        await asyncio.sleep(every)
        await eventually(fleet.whole, within=120, pause=0.1)
        fleet.kill(rng.choice(fleet.working() or fleet.workers))
        fleet.start()


async def freeze_now_and_then(
    fleet: Fleet, rng: random.Random, every: float, seconds: float
) -> None:
    """For ever: SIGSTOP a random worker for longer than its lease, then let it go on."""
    while True:
        await asyncio.sleep(every)
        if working := fleet.working():
            victim = rng.choice(working)
            fleet.freeze(victim)
            await asyncio.sleep(seconds)
            fleet.thaw(victim)
