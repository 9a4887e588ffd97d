"""Runs a documentation page from top to bottom, as a reader would who types along.

Python blocks share one module, SQL and shell commands one database. A Python block that awaits runs beside a
worker of every App the page has made so far, with `client` an open Client. What `print(…)  # text` says in its
comment is compared with what it prints.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import psycopg

from everstep import App, Client, Settings, Worker
from support.pages import TOP, Block, blocks
from support.server import wheel_binaries
from support.waiting import eventually_now

SERVERS = re.compile(r"(\w+=\S+ )*everstep (dev|worker) ")
"""Commands that go on until they are stopped."""

TESTS = re.compile(r"conftest\.py|test_\w+\.py")
"""Files that pytest runs, in a command of the page."""

READY = re.compile(r"runs app|ready", re.IGNORECASE)


class PageRunner:
    """One page under way: its module, its folder, its database, the processes it started."""

    def __init__(self, page: Path, url: str, folder: Path) -> None:
        self.page, self.url, self.folder = page, url, folder
        self.module = types.ModuleType(f"page_{page.stem.replace('-', '_').lower()}")
        self._servers: list[subprocess.Popen[bytes]] = []
        self._environment = self._make_environment()

    async def run(self) -> None:
        sys.modules[self.module.__name__] = self.module
        try:
            for block in blocks(self.page):
                if block.mark not in ("e2e", "not run"):
                    await self._run(block)
            self._stop_servers()
        finally:
            for server in self._servers:
                server.kill()
            del sys.modules[self.module.__name__]

    async def _run(self, block: Block) -> None:
        try:
            match block.language:
                case "python":
                    await self._python(block)
                case "sh":
                    self._shell(block)
                case "sql":
                    self._sql(block)
        except Exception as error:
            error.add_note(f"in the block at {block.place}")
            raise

    # -- python ----------------------------------------------------------------------------------

    async def _python(self, block: Block) -> None:
        if block.file:
            (self.folder / block.file).write_text(block.text)
            if TESTS.match(block.file):
                return  # a command below runs them
        said = io.StringIO()
        if block.mark == "raises":
            raised = None
            try:
                await self._execute(block, said)
            except Exception as error:  # noqa: BLE001
                raised = type(error).__name__
            assert raised == block.remark, f"{block.place} raises {raised}"
            return
        await self._execute(block, said)
        assert said.getvalue().splitlines() == list(_promised(block.text))

    async def _execute(self, block: Block, said: io.StringIO) -> None:
        """Definitions first, so that the workers know them; then, beside the workers, what awaits."""
        names = self.module.__dict__
        definitions, rest = _split(block)
        async with contextlib.AsyncExitStack() as stack:
            if rest is not None:
                names["client"] = await stack.enter_async_context(Client.connect(self.url))
            with contextlib.redirect_stdout(said):
                exec(definitions, names)
            if rest is not None:
                for app in {id(v): v for v in names.values() if isinstance(v, App)}.values():
                    settings = Settings(url=self.url, grace=2.0, lease_ttl=5.0)
                    await stack.enter_async_context(Worker(app, settings))
                with contextlib.redirect_stdout(said):
                    async with asyncio.timeout(60):
                        await eval(rest, names)

    # -- sql -------------------------------------------------------------------------------------

    def _sql(self, block: Block) -> None:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(block.text.encode())
            rows = cursor.fetchall() if cursor.description else []
            assert rows or block.mark == "no rows", f"{block.place} finds nothing"
            if block.mark == "index":
                plan = connection.execute(b"EXPLAIN " + block.text.encode()).fetchall()
                text = "\n".join(line for (line,) in plan)
                assert block.remark in text, f"{block.place} does not use {block.remark}:\n{text}"

    # -- shell -----------------------------------------------------------------------------------

    def _shell(self, block: Block) -> None:
        for command, code in _commands(block.text):
            if SERVERS.match(command):
                self._serve(command)
            else:
                self._command(command, code, block)

    def _command(self, command: str, code: int, block: Block) -> None:
        # The exported variables of one command are there for the next one.
        script = f"set -u; {command}\ncode=$?; env -0 > .environment; exit $code"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        told = f"{block.place}: {command}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, f"exit code {done.returncode}, not {code}: {told}"
        kept = (self.folder / ".environment").read_text().split("\0")
        self._environment = dict(line.split("=", 1) for line in kept if "=" in line)

    def _serve(self, command: str) -> None:
        log = self.folder / f"server-{len(self._servers)}.log"
        with log.open("wb") as sink:
            server = subprocess.Popen(
                ["bash", "-c", f"exec env {command}"],
                cwd=self.folder, env=self._environment, stdout=sink, stderr=sink, start_new_session=True,
            )  # fmt: skip
        self._servers.append(server)
        eventually_now(
            lambda: READY.search(log.read_text()) or server.poll() is not None,
            within=60,
            what=f"{command}: {log.read_text()}",
        )
        assert server.poll() is None, f"{command} ended: {log.read_text()}"

    def _stop_servers(self) -> None:
        for server in reversed(self._servers):
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 0, server.args

    def _make_environment(self) -> dict[str, str]:
        programs = self.folder / "bin"
        programs.mkdir()
        for name, call in {"everstep": "-m everstep.cli.main", "python": ""}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
            (programs / name).chmod(0o755)
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("EVERSTEP_")},
            "PATH": f"{programs}:{wheel_binaries()}:{os.environ['PATH']}",
            "PYTHONPATH": str(TOP / "runtime"),
            "PYTHONWARNINGS": "default",
            "EVERSTEP_DATABASE_URL": self.url,
            "EVERSTEP_PORT": "0",
            "COLUMNS": "120",
        }


def _split(block: Block) -> tuple[types.CodeType, types.CodeType | None]:
    """The statements before the first that awaits, and the others if there are any."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    statements = compile(block.text, block.place, "exec", flags=flags | ast.PyCF_ONLY_AST).body

    def code(part: list[ast.stmt]) -> types.CodeType:
        return compile(ast.Module(part, type_ignores=[]), block.place, "exec", flags=flags)

    for i, statement in enumerate(statements):
        if code([statement]).co_flags & inspect.CO_COROUTINE:
            return code(statements[:i]), code(statements[i:])
    return code(statements), None


def _promised(text: str) -> Iterator[str]:
    """What the comments of `print(…)` lines say is printed."""
    for line in text.splitlines():
        if match := re.match(r"\s*print\(.*\)  # (.*)$", line):
            yield match[1]


def _commands(text: str) -> Iterator[tuple[str, int]]:
    """Commands, continuation lines joined, with the exit code that `# exit code 7` announces."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.splitlines():
        match = re.search(r"\s+# exit code (\d+)$", line)
        command = re.sub(r"\s+# .*$", "", line)
        if command.strip() and not command.startswith("#"):
            yield command, int(match[1]) if match else 0
