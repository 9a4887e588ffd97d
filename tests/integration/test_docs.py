"""Every page of the documentation is run: its Python, its SQL, its commands."""

from __future__ import annotations

import os

import pytest
from support.history import write_history
from support.page_runner import PageRunner
from support.pages import TOP, blocks, pages

SQL_PAGE = TOP / "docs/guides/sql.md"
EXECUTED = ("python", "sql", "sh")


def has_something_to_run(page):
    return any(b.language in EXECUTED and b.mark not in ("e2e", "not run") for b in blocks(page))


@pytest.mark.parametrize(
    "page", [p for p in pages() if has_something_to_run(p)], ids=lambda p: str(p.relative_to(TOP))
)
async def test_a_page_does_what_it_says(page, database, short_path, monkeypatch):
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    if page == SQL_PAGE:
        write_history(database, workflows=60_000)
    before = dict(os.environ)
    await PageRunner(page, database, short_path).run()
    assert dict(os.environ) == before
