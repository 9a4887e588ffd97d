"""As whom an embedded Postgres runs: as the caller, or, since it refuses to be root, as `nobody` for root.

No folder's permissions are changed for that. Where `nobody` could not even reach the files (a home folder of
root), the server keeps the one capability to look them up. Linux; elsewhere root is asked to be somebody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import UsageError

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_CAPABILITIES = {_DAC_READ_SEARCH: "dac_read_search", _DAC_OVERRIDE: "dac_override"}


@dataclass(frozen=True)
class ServerUser:
    """`prefix` goes before a command of the server; `ids` are those of its files, None for the caller's own."""

    prefix: tuple[str, ...] = ()
    ids: tuple[int, int] | None = None

    def own(self, path: Path, mode: int = 0o700) -> None:
        """Make a file or folder the server's, and nobody else's."""
        path.chmod(mode)
        if self.ids is not None:
            os.chown(path, *self.ids)

    def claim(self, folder: Path) -> None:
        """Make a folder the server's, unless it is somebody else's or not a folder: then UsageError.

        For folders that others could have made before, such as those in /tmp.
        """
        found = folder.lstat()
        mine = {os.geteuid(), *(self.ids or ())[:1]}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in mine:
            raise UsageError(
                f"{folder} is to hold the server's socket, and it is not a folder of this user. Remove it."
            )
        self.own(folder)


def server_user(data: Path, needed: Iterable[Path]) -> ServerUser:
    """The user for a server with this data folder that has to reach the `needed` ones. Raises UsageError."""
    if os.geteuid() != 0:
        return ServerUser()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise UsageError(
            "Postgres refuses to run as root, and there is no setpriv here to run it as nobody. Run this as "
            "a normal user, or install util-linux."
        )
    uid, gid = _ids(data)
    capability = _capability([*needed, data])
    keep = (f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}") if capability else ()
    return ServerUser(
        (setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *keep, "--"), (uid, gid)
    )


def with_parent(signal: str) -> tuple[str, ...]:
    """A prefix that sends a command a signal (INT, TERM) when its parent dies, where the system has one."""
    setpriv = shutil.which("setpriv")
    return () if setpriv is None else (setpriv, f"--pdeathsig={signal}", "--")


def _ids(data: Path) -> tuple[int, int]:
    """Whose the data is already; for new data `nobody`."""
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _capability(needed: Iterable[Path]) -> str | None:
    closed = next((p for path in needed for p in _folders(path) if not _open_to_all(p)), None)
    if closed is None:
        return None
    held = _held()
    for number, name in _CAPABILITIES.items():
        if held >> number & 1:
            return name
    raise UsageError(
        f"Postgres refuses to run as root, and as nobody it cannot reach {closed}. Use a folder that others "
        f"may enter, or run this as a normal user."
    )


def _folders(path: Path) -> list[Path]:
    """The existing folders on the way to a path. The server's own are private by design."""
    return [p for p in path.resolve().parents if p.exists()]


def _open_to_all(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _held() -> int:
    """The capabilities of this process, as bits."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = (line.split() for line in status.read_text().splitlines())
    return next((int(words[1], 16) for words in lines if words[0] == "CapEff:"), 0)
