"""One row that the database refuses among 299 that it takes, for every kind of refusal."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import eventually

import everstep
from everstep import App, Client, WorkflowError
from everstep.engine.committer import Committer
from everstep.store.connection import RowRejected
from everstep.store.runs import Runs

COUNT = 300
MOST_STATEMENTS = 12

# What the database itself makes of a value, and the SQLSTATE it answers with.
KINDS = {
    "22012": "PERFORM 1 / 0",
    "22003": "PERFORM '1e999'::float8",
    "22P02": "PERFORM 'x'::integer",
    "22P05": "PERFORM '\"\\u0000\"'::jsonb ->> 0",
    "23502": "INSERT INTO picky (n) VALUES (NULL)",
    "23505": "INSERT INTO picky (n) VALUES (1), (1)",
    "23514": "INSERT INTO picky (n) VALUES (-1)",
    "54000": "INSERT INTO wide SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 500)",
}
PICKY = """
CREATE TABLE picky (n integer NOT NULL UNIQUE CHECK (n > 0));
CREATE TABLE wide (t text UNIQUE);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.output = '"bad"' THEN {statement}; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER look BEFORE INSERT ON everstep.checkpoint FOR EACH ROW EXECUTE FUNCTION look();
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_one_bad_row_fails_its_workflow_and_no_other(
    kind, database, client: Client, worker, sql, rng, monkeypatch
):
    sql.connection.execute(PICKY.format(statement=KINDS[kind]).encode())
    app, gate, end = App("test"), asyncio.Event(), asyncio.Event()
    bad = rng.randrange(COUNT)

    @app.step
    async def step(n: int) -> str:
        await gate.wait()
        return "bad" if n == bad else "good"

    @app.workflow
    async def flow(n: int) -> str:
        said = await step(n)
        await end.wait()
        return said

    running = await worker(app, concurrency=2 * COUNT)
    handles = [await client.start(flow, n) for n in range(COUNT)]
    await eventually(
        lambda: sum(e.steps_running for e in running.tenure.runner.executions.values()) == COUNT
    )
    sizes = count_checkpoints(monkeypatch)
    gate.set()
    await eventually(
        lambda: sql.one("SELECT count(*) FROM everstep.checkpoint") == COUNT - 1, what="299 rows"
    )
    print(f"{len(sizes)} statements")
    assert sizes[0] == COUNT
    assert len(sizes) <= MOST_STATEMENTS
    end.set()
    results = await asyncio.gather(
        *[handle.result(timeout=30) for handle in handles], return_exceptions=True
    )
    assert isinstance(results[bad], WorkflowError)
    assert kind in str(results[bad])
    assert results[:bad] + results[bad + 1 :] == ["good"] * (COUNT - 1)


@pytest.mark.parametrize("then", ["ends", "fails", "parks", "records more"])
async def test_what_a_workflow_hands_over_while_its_row_is_being_refused_is_not_recorded(
    then, app, client: Client, worker, sql, monkeypatch
):
    """It would be a success, or a wait, that builds on a step which nobody has written down."""
    sql.connection.execute(PICKY.format(statement=KINDS["22012"]).encode())
    end = asyncio.Event()

    @app.step
    async def step() -> str:
        return "bad"

    @app.workflow
    async def flow() -> str:
        task = asyncio.create_task(step())
        await end.wait()
        if then == "parks":
            await everstep.sleep(3600)
        elif then == "records more":
            await everstep.set_event("said", 1)
        elif then == "fails":
            raise LookupError("before the database has answered")
        return await task

    async def refused_late(self, rows, *, waiting):
        try:
            return await original(self, rows, waiting=waiting)
        except RowRejected:
            end.set()
            await eventually(lambda: self._groups)
            raise

    original = Committer._repeat
    monkeypatch.setattr(Committer, "_repeat", refused_late)
    await worker()
    handle = await client.start(flow)
    with pytest.raises(WorkflowError, match="the database refuses what workflow"):
        await handle.result(30)
    assert await handle.steps() == []


def count_checkpoints(monkeypatch) -> list[int]:
    """From now on: how many checkpoints each commit carries."""
    sizes: list[int] = []
    commit = Runs.commit

    async def counting(self, connection, batch, *, waiting=False):
        sizes.append(len(batch.c_id))
        return await commit(self, connection, batch, waiting=waiting)

    monkeypatch.setattr(Runs, "commit", counting)
    return sizes
