"""Limited queues as the store knows them: who claims, finishes and dies, and what the database saw of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID, uuid4

from everstep.store.connection import Connection, Link
from everstep.store.models import CommitBatch, Ending
from everstep.store.queues import LimitedClaims
from everstep.store.runs import Runs
from support.database import Sql

NO_CURSORS: list[None] = [None] * 4

_LOG = """
CREATE TABLE start_log (
    n bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, id text, queue text, partition text, running bigint,
    of_partition bigint);
CREATE FUNCTION log_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO start_log (at, id, queue, partition, running, of_partition)
    SELECT everstep.clock(), NEW.id, NEW.queue, NEW.partition, count(*),
           count(*) FILTER (WHERE r.partition IS NOT DISTINCT FROM NEW.partition)
      FROM everstep.run r WHERE r.queue = NEW.queue AND r.state = 2;
    RETURN NULL;
END $$;
CREATE TRIGGER log_start AFTER INSERT OR UPDATE OF state ON everstep.run
    FOR EACH ROW WHEN (NEW.state = 2) EXECUTE FUNCTION log_start();
"""


def log_starts(sql: Sql) -> None:
    """From now on the table start_log says who was claimed when, and how many were running then."""
    for statement in _LOG.split(";\nCREATE"):
        sql(statement if statement.startswith("\nCREATE") else f"CREATE{statement}")


def put(
    sql: Sql,
    queue: str,
    count: int,
    *,
    partition: str | None = None,
    priority: int = 1,
    name: str = "work",
    age: float = 0.0,
    prefix: str | None = None,
) -> None:
    """Workflows that are ready since `age` seconds, started without a client."""
    sql(
        "WITH i AS (SELECT %(prefix)s || '-' || lpad(n::text, 6, '0') AS id FROM generate_series(1, %(count)s) n), "
        "w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
        "      SELECT id, %(name)s, %(queue)s, 1, '{}', everstep.clock() FROM i) "
        "INSERT INTO everstep.run (id, name, queue, partition, priority, ready_at) "
        "SELECT id, %(name)s, %(queue)s, %(partition)s, %(priority)s, "
        "       everstep.clock() - make_interval(secs => %(age)s) FROM i",
        {
            "prefix": prefix or f"{queue}-{partition}-{priority}",
            "count": count,
            "queue": queue,
            "partition": partition,
            "priority": priority,
            "name": name,
            "age": age,
        },
    )


def widest_burst(times: Sequence[datetime], rate: float) -> float:
    """The largest, over all windows of w seconds, of what began in them minus `rate * w`."""
    if not times:
        return 0.0
    # From the first one on: a rate times the seconds since 1970 is more than a float holds exactly.
    first = min(times)
    seconds = sorted((time - first).total_seconds() for time in times)
    least, widest = float("inf"), 0.0
    for n, second in enumerate(seconds):
        # A window that begins with the i-th and ends with the n-th holds n - i + 1.
        least = min(least, n - rate * second)
        widest = max(widest, n + 1 - rate * second - least)
    return widest


@dataclass
class Claimant:
    """A worker as the store knows one: registered, it claims and finishes, and can die without a word."""

    url: str
    queue: str
    link: Link = field(init=False)
    me: UUID = field(init=False)

    async def __aenter__(self) -> Self:
        self.link = Link(self.url, "claimant")
        await self.register()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.close()

    async def register(self) -> None:
        """As a new worker, whatever it held as another one."""
        self.me = uuid4()
        self._claims = LimitedClaims("everstep", self.me, "v1")
        self._runs = Runs("everstep", self.me, "v1")
        await self.link.call(self._insert)

    async def claim(self, limit: int, *, suspect: bool = False) -> Any:
        return await self.link.call(
            lambda c: self._claims.claim(
                c, self.queue, names=["work"], cursors=NO_CURSORS, limit=limit, suspect=suspect
            )
        )

    async def finish(self, owned: dict[str, int]) -> None:
        """Complete workflows of this claimant, by id and epoch."""
        batch = CommitBatch()
        for id_, epoch in owned.items():
            batch.d_id.append(id_)
            batch.d_epoch.append(epoch)
            batch.d_status.append(Ending.SUCCEEDED)
            batch.d_output.append(b"null")
            batch.d_error.append(None)
        await self.link.call(lambda c: self._runs.commit(c, batch, waiting=True))

    async def die(self) -> None:
        """What it holds stays with a dead worker until a sweep; a new worker takes its place."""
        dead = self.me
        await self.link.call(
            lambda c: c.execute("UPDATE everstep.worker SET state = 3 WHERE id = %s", [dead])
        )
        await self.register()

    async def _insert(self, connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until) "
            "VALUES (%s, 'test', 'v1', 1, 100, now(), now() + interval '1 hour')",
            [self.me],
        )


def rewrite_function(sql: Sql, rewrite: Callable[[str], str], name: str = "claim_limited") -> None:
    """Put a changed function in the place of one of the engine's: for the mutants."""
    text = sql.one("SELECT pg_get_functiondef(('everstep.' || %s)::regproc)", [name])
    changed = rewrite(text)
    assert changed != text, "the mutant is the original"
    sql(changed)
