"""One system under measurement: how its programs are run, and the databases they are given.

Each measurement gets a database of its own, copied from a template with the system's schema, so that no row
pays for what another one left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from everstep.embedded import EmbeddedPostgres

HERE = Path(__file__).parent
CAP_SECONDS = 120


class AbsentError(Exception):
    """This system does not have what a row measures, or did not come to an end in time; says which."""


@dataclass(frozen=True)
class Side:
    """A system: its interpreter, its programs `<prefix>_side.py`, `<prefix>_waiting.py`, …, and its template."""

    name: str
    prefix: str
    python: str
    server: EmbeddedPostgres
    runtime: Path | None = None
    may_lack: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def template(self) -> str:
        return f"{self.name}_template"

    def prepare(self) -> None:
        """Make the template, and see that it is this side's code that runs."""
        self._execute("CREATE DATABASE {}", self.template)
        told = self._run("side", "prepare", self.server.url_of(self.template))
        if self.runtime and not Path(told["code"]).is_relative_to(self.runtime):
            sys.exit(
                f"{self.name}: its code should come from {self.runtime}, not from {told['code']}"
            )

    @contextmanager
    def database(self) -> Iterator[str]:
        name = f"{self.name}_run"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, self.template)
        try:
            yield self.server.url_of(name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def measure(
        self, program: str, verb: str, sizes: tuple[str, ...], *, with_worker: bool
    ) -> dict[str, float]:
        """The figures of one run of a verb, in a new database. Raises AbsentError."""
        with self.database() as url:
            if not with_worker:
                return self._run(program, verb, url, *sizes)
            with self._worker(program, url) as pid:
                return self._run(program, verb, url, *sizes, str(pid))

    def _run(self, program: str, verb: str, url: str, *rest: str) -> dict[str, Any]:
        command = [*self._command(program), verb, url, *rest]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=CAP_SECONDS,
                check=False,
                env=self._environment(),
            )
        except subprocess.TimeoutExpired:
            raise AbsentError(f"> {CAP_SECONDS} s") from None
        if done.returncode:
            if self.may_lack and "ImportError: " in done.stderr:
                raise AbsentError("none")
            sys.exit(f"{self.name} {program} {verb} failed:\n{done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @contextmanager
    def _worker(self, program: str, url: str) -> Iterator[int]:
        process = subprocess.Popen(
            [*self._command(program), "worker", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self.may_lack else subprocess.DEVNULL,
            text=True,
            env=self._environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != "ready":
                if process.stderr and "ImportError: " in process.stderr.read():
                    raise AbsentError("none")
                sys.exit(f"{self.name}: its worker did not start")
            yield process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _command(self, program: str) -> list[str]:
        return [self.python, str(HERE / f"{self.prefix}_{program}.py")]

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.runtime)} if self.runtime else {}
        return {**os.environ, **own}

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
