-- Schedules: declared by the code, changed by operators, ticked by whichever worker looks first.

-- name: schedule_declare
-- What the code says. A row changes only where the code now says something else than it said last, so that an
-- operator's change lasts; pauses always last, and so does the next tick where the timing is the same. `routing` keeps a worker of a version that is no longer current,
-- late by a moment, from undoing what the current one has declared.
WITH d AS MATERIALIZED (
    SELECT * FROM unnest(%(names)s::text[], %(workflows)s::text[], %(parameters)s::text[], %(queues)s::text[],
                         %(crons)s::text[], %(everys)s::float8[], %(timezones)s::text[], %(catch_ups)s::text[],
                         %(overlaps)s::text[], %(declareds)s::jsonb[], %(nexts)s::timestamptz[])
                  AS t(name, workflow, parameter, queue, cron, every, timezone, catch_up, overlap, declared, next_at)
     WHERE EXISTS (SELECT FROM everstep.routing r WHERE r.current = %(version)s AND r.revision = %(routing)s)),
g AS (
    UPDATE everstep.schedule s SET removed_at = everstep.clock(), revision = s.revision + 1
     WHERE s.app = %(app)s AND s.name <> ALL (%(names)s::text[]) AND s.routing <= %(routing)s
       AND s.removed_at IS NULL
       AND EXISTS (SELECT FROM everstep.routing r WHERE r.current = %(version)s AND r.revision = %(routing)s)
    RETURNING s.name),
i AS (
    INSERT INTO everstep.schedule AS s (name, workflow, parameter, queue, cron, every, timezone, catch_up, overlap,
                                        declared, app, routing, next_at)
    SELECT name, workflow, parameter, queue, cron, every, timezone, catch_up, overlap, declared, %(app)s,
           %(routing)s, next_at
      FROM d ORDER BY name
    ON CONFLICT (name) DO UPDATE SET
           workflow = excluded.workflow, parameter = excluded.parameter, queue = excluded.queue,
           cron = excluded.cron, every = excluded.every, timezone = excluded.timezone,
           catch_up = excluded.catch_up, overlap = excluded.overlap, declared = excluded.declared,
           app = excluded.app, routing = excluded.routing, removed_at = NULL, revision = s.revision + 1,
           next_at = CASE WHEN s.removed_at IS NULL AND s.timezone = excluded.timezone
                           AND (s.cron = excluded.cron OR s.every = excluded.every)
                          THEN s.next_at ELSE excluded.next_at END
     WHERE s.routing <= excluded.routing
       AND (s.declared <> excluded.declared OR s.removed_at IS NOT NULL OR s.app <> excluded.app)
    RETURNING s.name)
SELECT ARRAY(SELECT name FROM i) AS declared, ARRAY(SELECT name FROM g) AS removed;

-- name: schedule_look
-- The schedules that are due; how long until the next one is; and under which routing.
SELECT everstep.clock() AS now, t.current, t.revision,
       (SELECT extract(epoch FROM min(s.next_at) - everstep.clock())::float8 FROM everstep.schedule s
         WHERE NOT s.paused AND s.removed_at IS NULL AND s.next_at > everstep.clock()) AS next_in,
       ARRAY(SELECT s.name FROM everstep.schedule s
              WHERE NOT s.paused AND s.removed_at IS NULL AND s.next_at <= everstep.clock()
              ORDER BY s.next_at LIMIT 10000) AS due
  FROM everstep.routing t;

-- name: schedule_rows
SELECT name, workflow, parameter, queue, cron, every, timezone, catch_up, overlap, paused, declared, revision,
       next_at, last_at, skipped_at, removed_at, everstep.clock() AS now
  FROM everstep.schedule
 WHERE %(names)s::text[] IS NULL OR name = ANY (%(names)s::text[]) ORDER BY name;

-- name: schedule_list
SELECT name, state, workflow, queue, cron, every, timezone, catch_up, overlap, edited, next_at, last_at, skipped_at
  FROM everstep.schedules ORDER BY name;

-- name: schedule_lock
-- For sections of several statements: is the tick that was looked at still to come?
SELECT s.name FROM everstep.schedule s
 WHERE s.name = %(name)s AND s.next_at = %(expected)s AND s.revision = %(revision)s
   FOR UPDATE SKIP LOCKED;

-- name: schedule_tick
-- Start the workflows of due ticks and move on, in one statement: a crash leaves both or neither. The row is
-- locked as it was looked at, or not at all: of many workers one does it, the others find nothing to do.
WITH l AS MATERIALIZED (
    SELECT s.name, s.workflow, s.queue FROM everstep.schedule s
     WHERE s.name = %(name)s AND s.next_at = %(expected)s AND s.revision = %(revision)s
       AND NOT s.paused AND s.removed_at IS NULL
       FOR UPDATE SKIP LOCKED),
b AS MATERIALIZED (
    SELECT t.id, t.tick, t.input, l.workflow, l.queue FROM l, unnest(
           %(ids)s::text[], %(ticks)s::timestamptz[], %(inputs)s::bytea[]) AS t(id, tick, input)
     WHERE NOT EXISTS (SELECT FROM everstep.run r WHERE r.id = %(previous)s)),
u AS (
    UPDATE everstep.schedule s SET next_at = %(next_at)s,
           last_at = coalesce((SELECT max(tick) FROM b), s.last_at),
           skipped_at = CASE WHEN EXISTS (SELECT FROM b) THEN coalesce(%(skipped)s, s.skipped_at)
                        ELSE coalesce(%(skipped)s, %(last)s, s.skipped_at) END
      FROM l WHERE s.name = l.name RETURNING s.name),
w AS (
    INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
    SELECT id, workflow, queue, %(codec)s, input, everstep.clock() FROM b ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id),
r AS (
    INSERT INTO everstep.run (id, name, queue, state, ready_at)
    SELECT b.id, b.workflow, b.queue, 1, everstep.clock() FROM b JOIN w ON w.id = b.id),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 1, b.queue, b.workflow, 0, 0, count(*), 0 FROM b JOIN w ON w.id = b.id GROUP BY b.queue, b.workflow)
SELECT (SELECT count(*) FROM u) AS moved, ARRAY(SELECT id FROM w) AS started;

-- name: schedule_start
-- Workflows of a schedule outside of its course: triggered now, or filled in for the past.
WITH b AS MATERIALIZED (
    SELECT t.id, t.input, s.workflow, s.queue FROM everstep.schedule s,
           unnest(%(ids)s::text[], %(inputs)s::bytea[]) AS t(id, input)
     WHERE s.name = %(name)s AND s.revision = %(revision)s),
w AS (
    INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
    SELECT id, workflow, queue, %(codec)s, input, everstep.clock() FROM b ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id),
r AS (
    INSERT INTO everstep.run (id, name, queue, state, ready_at)
    SELECT b.id, b.workflow, b.queue, 1, everstep.clock() FROM b JOIN w ON w.id = b.id),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 1, b.queue, b.workflow, 0, 0, count(*), 0 FROM b JOIN w ON w.id = b.id GROUP BY b.queue, b.workflow)
SELECT ARRAY(SELECT id FROM w) AS started, EXISTS (SELECT FROM b) AS found;

-- name: schedule_set
-- An operator's change. Lasts until the code declares something else.
UPDATE everstep.schedule s SET queue = %(queue)s, cron = %(cron)s, every = %(every)s, timezone = %(timezone)s,
       catch_up = %(catch_up)s, overlap = %(overlap)s, paused = %(paused)s, next_at = %(next_at)s,
       revision = s.revision + 1
 WHERE s.name = %(name)s AND s.revision = %(revision)s RETURNING s.name;
