"""The server: a child of this process, with its data, log and socket in one folder.

Durable like any other: fsync stays on unless `settings` turn it off.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from everstep.embedded.cluster import find_programs, make_data
from everstep.embedded.user import ServerUser, server_user, with_parent
from everstep.errors import UsageError

START_SECONDS = 60.0
STOP_SECONDS = 30.0
LONGEST_SOCKET_FOLDER = 90
"""A socket's path has at most 103 bytes on every system we know; the file name takes 13 of them."""


class EmbeddedPostgres:
    """A server with its data in `folder`, which is made if need be. Use as a context manager, or start and stop.

    `settings` are server settings by name. `port`: also listen on 127.0.0.1, there (0: on any free port), with
    a password that is kept in the folder. `with_parent`: stop when this process dies, however it dies, where
    the system can do that; the thread that calls `start` has to live as long.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Mapping[str, str | int] | None = None,
        *,
        port: int | None = None,
        with_parent: bool = False,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = port
        self._settings = dict(settings or {})
        self._with_parent = with_parent
        self._data = self.folder / "data"
        self._sockets = _socket_folder(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._user = ServerUser()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The connection string, through the Unix socket."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The connection string of one of its databases."""
        port = f"&port={self.port}" if self.port else ""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._sockets))}{port}"

    def tcp_url_of(self, database: str = "postgres") -> str:
        """The connection string through 127.0.0.1, with its password. Raises UsageError without a port."""
        if not self.port:
            raise UsageError("this server has no port: make it as EmbeddedPostgres(folder, port=0)")
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{quote(database)}"

    @property
    def password(self) -> str:
        """The password of user postgres through the port; the socket asks for none, its folder is private."""
        return (self.folder / "password").read_text().strip()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Make the data if there is none, start, and return once connections are taken. Raises UsageError."""
        if self.running:
            return self
        programs = find_programs()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._user = server_user(self._data, [programs, self.folder])
            self._make_sockets()
            if not self._data.exists():
                make_data(
                    programs, self.folder, self._user, sync=self._settings.get("fsync") != "off"
                )
            self._launch(programs)
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)
        return self

    def wait(self) -> None:
        """Return once it has ended, whoever ended it."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Stop and wait: sessions are ended, everything is on disk. Does nothing if it is not running."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Crash: no checkpoint, no goodbye. The next start recovers from the log."""
        self._end(signal.SIGQUIT)

    # -- how -------------------------------------------------------------------------------------

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        for number in (how, signal.SIGQUIT, signal.SIGKILL):
            if process is None or process.poll() is not None:
                break
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        if process is not None and self._sockets.parent != self.folder:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise UsageError(
                f"another process uses the Postgres in {self.folder}. Stop it, or choose another folder."
            ) from None

    def _make_sockets(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._sockets.mkdir(mode=0o700)
        self._user.claim(self._sockets)

    def _launch(self, programs: Path) -> None:
        if self.port == 0:
            self.port = _free_port()
        chosen = {
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": self.port or 5432,
            "unix_socket_directories": str(self._sockets),
            "max_connections": 200,
            **self._settings,
        }
        # Last: a change of user forgets the parent.
        prefix = [*self._user.prefix, *(with_parent("INT") if self._with_parent else ())]
        command = [*prefix, str(programs / "postgres"), "-D", str(self._data)]
        for name, value in chosen.items():
            command += ["-c", f"{name}={value}"]
        log = self.folder / "log"
        if log.exists():
            log.replace(self.folder / "log.1")
        with log.open("wb") as sink:
            # A group of its own: Ctrl-C in a terminal is for this process, which stops the server in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd="/",
                process_group=0,
            )
        self._await_ready(log)

    def _await_ready(self, log: Path) -> None:
        """The server says in the last line of its pid file when it takes connections."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _ready(self._data / "postmaster.pid", self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(
                    f"Postgres does not start in {self.folder}: {_last_words(log)} "
                    f"The whole log is {log}."
                )
            time.sleep(0.01)


def _socket_folder(folder: Path) -> Path:
    """Within the server's folder; or a short path that is the same at every start, since a socket's may not be long."""
    if len(str(folder / "run").encode()) <= LONGEST_SOCKET_FOLDER:
        return folder / "run"
    told = hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"everstep-{os.geteuid()}-{told}"


def _ready(pid_file: Path, pid: int) -> bool:
    try:
        lines = pid_file.read_text().split("\n")
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    told = [line for line in lines if "FATAL" in line or "HINT" in line]
    return " ".join(told[-2:] or lines[-2:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
