"""The worker processes of `everstep dev`: started, watched, replaced when they die, and stopped together."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Self

import click

from everstep.cli.failures import ExitCode
from everstep.embedded import EmbeddedPostgres
from everstep.embedded.user import with_parent
from everstep.errors import DatabaseUnreachableError

STOP_SECONDS = 45.0
"""Longer than a worker's grace period and its farewell."""

PAUSE_SECONDS = 1.0
"""Before a worker that died is started again."""


@dataclass(frozen=True, eq=False)
class _Worker:
    name: str
    url: str
    port: int
    process: subprocess.Popen[bytes]


class Family:
    """Use as a context manager: its end stops every worker and waits."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._workers: list[_Worker] = []
        self._ended: SimpleQueue[_Worker | None] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, url: str, port: int) -> None:
        """Start a worker. It ends with this process, however this one ends, where the system can do that."""
        options = ["--database", url, "--port", str(port), "--pod", name]
        command = [sys.executable, "-m", "everstep.cli.main", "worker", self._target, *options]
        # A group of its own: Ctrl-C in the terminal is for this process, which stops its workers in order.
        process = subprocess.Popen([*with_parent("TERM"), *command], process_group=0)
        worker = _Worker(name, url, port, process)
        self._workers.append(worker)
        threading.Thread(target=self._await, args=(worker,), daemon=True).start()

    def watch(self, server: EmbeddedPostgres) -> None:
        """Replace workers that die, until interrupted. Raises click.exceptions.Exit if that is no use."""
        threading.Thread(target=self._await_server, args=(server,), daemon=True).start()
        while (worker := self._ended.get()) is not None:
            self._workers.remove(worker)
            code = worker.process.returncode
            if code in (ExitCode.WRONG_CALL, ExitCode.SCHEMA):
                # It said why; the next one would say the same.
                raise click.exceptions.Exit(code)
            click.echo(f"{worker.name} ended with code {code}: starting it again", err=True)
            time.sleep(PAUSE_SECONDS)
            self.start(worker.name, worker.url, worker.port)
        raise DatabaseUnreachableError(
            f"the database has stopped by itself. Its log is {server.folder / 'log'}"
        )

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL to those that have not left in time."""
        self.hurry()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def hurry(self) -> None:
        """Tell all to leave: the first time with grace, the second at once."""
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)

    def _await(self, worker: _Worker) -> None:
        worker.process.wait()
        self._ended.put(worker)

    def _await_server(self, server: EmbeddedPostgres) -> None:
        server.wait()
        self._ended.put(None)


def free_ports(first: int, count: int) -> list[int]:
    """`count` ports from `first` on that nobody listens on; any free ones for 0."""
    found: list[int] = []
    candidate = first
    while len(found) < count:
        with socket.socket() as probe:
            try:
                probe.bind(("", candidate))
            except OSError:
                candidate += 1
                continue
            port: int = probe.getsockname()[1]
        if port not in found:
            found.append(port)
        candidate = port + 1 if first else 0
    return found
