"""Where the databases of tests come from: an embedded Postgres for the session, or a server that is there."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def server() -> Iterator[Databases]:
    """The server at EVERSTEP_TEST_DATABASE_URL, or one of our own that is gone afterwards."""
    if url := given_test_database():
        yield Databases(url)
        return
    folder = Path(tempfile.mkdtemp(prefix="everstep-test-"))
    folder.chmod(0o711)
    try:
        with EmbeddedPostgres(folder / "postgres", QUICK, with_parent=True) as postgres:
            yield Databases(postgres.url)
    finally:
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
