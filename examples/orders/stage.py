"""What the demo stands on: two worker processes and a database, none of which outlives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from everstep.embedded import EmbeddedPostgres

HERE = Path(__file__).parent
SETTINGS = {
    "EVERSTEP_LEASE_SECONDS": "3",  # 15 by default: short, so that the rescue is seen
    "EVERSTEP_CONCURRENCY": "25",
    "EVERSTEP_PORT": "0",
    "ORDERS_PACKING_SECONDS": "1.2",
    "ORDERS_PROVIDER_SECONDS": "0.3",
}


class WorkerDied(Exception):
    """A worker ended that nobody had killed."""


class WorkerProcess:
    """One `everstep worker`, its log in a file.

    In a session of its own, so that Ctrl-C reaches it through `stop` only; it ends with the demo however that
    one ends.
    """

    def __init__(self, pod: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.pod = pod
        self.log = folder / f"{pod}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*_ending_with_this_process(), *everstep(), "worker", "orders.app:app"],
                cwd=HERE,
                env={**environment, "EVERSTEP_POD": pod},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise WorkerDied, with the end of its log, if it is not running."""
        if (code := self.process.poll()) is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise WorkerDied(
                f"{self.pod} ended with exit code {code}; {self.log} ends with\n{tail}"
            )

    def kill(self) -> None:
        """SIGKILL: it gets no chance to give anything back."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL for one that has not left after 15 s. Returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()


@contextmanager
def workers(count: int, url: str, folder: Path, ledger: Path) -> Iterator[list[WorkerProcess]]:
    """So many workers of the orders app, stopped at the end."""
    environment = {
        **os.environ,
        **SETTINGS,
        "EVERSTEP_DATABASE_URL": url,
        "ORDERS_LEDGER": str(ledger),
    }
    started: list[WorkerProcess] = []
    try:
        for number in range(1, count + 1):
            # One by one: those that were started are stopped if the next one cannot be.
            started.append(WorkerProcess(f"worker-{number}", folder, environment))  # noqa: PERF401
        yield started
    finally:
        for worker in started:
            worker.stop()


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """A Postgres of its own in a folder, without what an earlier demo left, for the time of a `with`."""
    with EmbeddedPostgres(folder, with_parent=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS everstep, orders, ledger CASCADE")
        yield server.url


def everstep() -> list[str]:
    """The command `everstep` of this very interpreter."""
    return [sys.executable, "-m", "everstep.cli.main"]


def run_everstep(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the demo's database and take what it says."""
    return subprocess.run(
        [*everstep(), *arguments],
        cwd=HERE,
        env={**os.environ, "EVERSTEP_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def _ending_with_this_process() -> list[str]:
    """A prefix that ends a command with SIGTERM when the demo dies without a goodbye, where there is such a thing."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", "--"] if setpriv else []
