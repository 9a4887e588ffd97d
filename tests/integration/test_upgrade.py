"""Older code on a schema that newer code has migrated: it works where the migration says so, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from everstep import Client, Settings, Worker
from everstep.doctor import examine
from everstep.errors import MigrationError, SchemaError
from everstep.migrations import migrate as module
from everstep.migrations.files import Migration
from everstep.migrations.known import newest_known
from everstep.migrations.migrate import engine_migrations, migrate
from everstep.store.checks import compare

KNOWN = newest_known()
EXPANDS = """
DO $$ DECLARE one text; BEGIN
    FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'everstep' AND tablename <> 'migration' LOOP
        EXECUTE format('ALTER TABLE everstep.%I ADD COLUMN of_the_future text', one);
    END LOOP;
END $$;
CREATE TABLE everstep.novelty (id text PRIMARY KEY);
"""


def upgrade(url: str, mark: str, number: int = KNOWN + 1) -> None:
    """What `everstep migrate` of the next release would do."""
    text = f"-- What the next release needs.\n{mark}\n{EXPANDS}"
    newer = [*engine_migrations(), Migration(number, f"{number:04}_next.sql", text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "engine_migrations", lambda: newer)
        done = migrate(url, "everstep")
    assert (done.engine, done.applied) == (number, [f"{number:04}_next.sql"])


async def test_code_that_the_mark_allows_starts_works_and_migrates(
    database: str, app, worker, sql, tmp_path: Path
):
    @app.step
    async def half(n: int) -> int:
        return n // 2

    @app.workflow
    async def flow(n: int) -> int:
        return await half(n) + await half(n)

    upgrade(database, f"-- everstep: oldest-code {KNOWN}")
    assert sql.one("SELECT engine_schema FROM everstep.v1_routing") == KNOWN + 1
    await worker()
    async with Client.connect(database) as client:
        assert await (await client.start(flow, 8)).result() == 8
    assert [f for f in await examine(Settings(url=database)) if f.check == "schema"] == []

    (tmp_path / "0001_orders.sql").write_text("CREATE TABLE orders (id int);")
    done = migrate(database, "everstep", tmp_path)
    assert (done.engine, done.applied) == (KNOWN + 1, ["0001_orders.sql"])


@pytest.mark.parametrize("mark", ["", f"-- everstep: oldest-code {KNOWN + 1}"])
async def test_code_that_is_too_old_for_the_schema_is_told_at_once(database: str, app, mark: str):
    upgrade(database, mark)
    said = f"it is at {KNOWN + 1} and needs code that knows {KNOWN + 1}, this code knows {KNOWN}"
    with pytest.raises(SchemaError, match=said):
        async with Client.connect(database):
            pass
    with pytest.raises(SchemaError, match="Install a newer everstep"):
        async with Worker(app, Settings(url=database)):
            pass
    with pytest.raises(MigrationError) as caught:
        migrate(database, "everstep")
    assert caught.value.report["code"] == "SchemaTooNew"
    assert f"needs code that knows {KNOWN + 1}" in str(caught.value.report["message"])


async def test_the_strictest_of_the_newer_migrations_counts(database: str, sql):
    upgrade(database, f"-- everstep: oldest-code {KNOWN + 1}")
    sql(
        "INSERT INTO everstep.migration (origin, number, file, checksum, state, oldest_code, started_at, applied_by) "
        "VALUES ('engine', %s, '9999_later.sql', '', 'applied', %s, now(), 'x')",
        [KNOWN + 2, KNOWN],
    )
    with pytest.raises(SchemaError, match=f"needs code that knows {KNOWN + 1}"):
        async with Client.connect(database):
            pass


@pytest.mark.parametrize(
    ("found", "oldest_code", "known", "problem"),
    [
        (4, 4, 4, None),
        (5, 4, 4, None),
        (7, 4, 5, None),
        (7, 6, 5, "is at 7 and needs code that knows 6, this code knows 5"),
        (4, 4, 5, "too old: it is at 4, this code needs 5. Run `everstep migrate`"),
    ],
)
def test_who_may_run_on_which_schema(found, oldest_code, known, problem):
    if problem is None:
        compare("everstep", found, oldest_code, known)
        return
    with pytest.raises(SchemaError, match=problem):
        compare("everstep", found, oldest_code, known)
