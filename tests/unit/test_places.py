"""Where everstep.testing keeps the databases of a session, and what it removes of sessions that were killed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from everstep.testing import databases
from everstep.testing.databases import PREFIX, memory, remove_abandoned

HOURS_AGO = 1_000_000_000


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(databases, "MEMORY", tmp_path)
    monkeypatch.setattr(databases, "ROOM", 0)
    return tmp_path


def test_databases_are_in_memory_if_there_is_room(place, monkeypatch):
    assert memory() == place
    monkeypatch.setattr(databases, "ROOM", 1 << 62)
    assert memory() is None


def test_databases_are_where_tmpdir_says(place, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(place))
    assert memory() is None


def test_a_system_without_memory_to_write_to_has_its_databases_elsewhere(place, monkeypatch):
    monkeypatch.setattr(databases, "MEMORY", place / "missing")
    assert memory() is None


def test_what_a_killed_session_left_is_removed_and_nothing_else(place):
    abandoned, living, new = (make_session(place, name) for name in ("abandoned", "living", "new"))
    os.utime(abandoned, (HOURS_AGO, HOURS_AGO))
    os.utime(living, (HOURS_AGO, HOURS_AGO))
    (place / f"{PREFIX}empty").mkdir()
    (place / "other" / "postgres").mkdir(parents=True)
    with living.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_abandoned(place)
    assert not abandoned.exists()
    assert {entry.name for entry in place.iterdir()} == {
        f"{PREFIX}living",
        f"{PREFIX}new",
        f"{PREFIX}empty",
        "other",
    }
    assert new.exists()


def make_session(place: Path, name: str) -> Path:
    """A session's folder; its lock is returned."""
    lock = place / f"{PREFIX}{name}" / "postgres" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    return lock
