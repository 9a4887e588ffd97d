"""Where the databases of tests come from: an embedded Postgres for the session, or a server that is there."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from everstep.embedded import EmbeddedPostgres
from everstep.settings import given_test_database
from everstep.store.testing import Databases

QUICK: dict[str, str | int] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # it would be in the template when it is to be copied
    "max_wal_size": "1GB",
    "timezone": "UTC",
}
"""Nothing outlives a test, so nothing needs to be on disk."""

MEMORY = Path("/dev/shm")  # noqa: S108 - only folders of mkdtemp are made in it
ROOM = 4 << 30
"""Bytes: a container's /dev/shm often has only 64 MB."""

PREFIX = "everstep-test-"
OLD_SECONDS = 3600.0
"""A session this old has its lock for sure, if it still lives; a younger one may just be about to take it."""


@contextmanager
def server() -> Iterator[Databases]:
    """The server at EVERSTEP_TEST_DATABASE_URL, or one of our own that is gone afterwards."""
    if url := given_test_database():
        yield Databases(url)
        return
    place = memory()
    if place:
        remove_abandoned(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "postgres", QUICK, with_parent=True) as postgres:
            yield Databases(postgres.url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> Path | None:
    """Where files are in memory, unless there is no room or TMPDIR says where to go; None: the default.

    A database has some 300 files. To make and drop them takes 20 ms here, and 300 ms on a disk that is slow at
    it, though fsync is off.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free >= ROOM else None


def remove_abandoned(place: Path) -> None:
    """Remove what sessions that were killed left behind: in memory it would stay until the next boot."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / "postgres" / "lock").open("r+") as lock:
            if time.time() - os.fstat(lock.fileno()).st_mtime > OLD_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


class Copies:
    """Fresh databases, copied from a template that is migrated once."""

    def __init__(self, databases: Databases, migrations: Path | None) -> None:
        self._databases = databases
        self._prefix = f"everstep_test_{uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        databases.make_template(self._prefix, migrations)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The connection string of a new database; dropped afterwards, whoever is still connected."""
        name = f"{self._prefix}_{next(self._numbers)}"
        self._databases.make(name, self._prefix)
        try:
            yield self._databases.url_of(name)
        finally:
            self._databases.drop(name)

    def close(self) -> None:
        self._databases.drop(self._prefix)
