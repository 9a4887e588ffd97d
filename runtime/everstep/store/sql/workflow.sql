-- Transitions asked for from outside: start, cancel; and the questions a client asks.

-- name: start
-- A batch of starts, sorted by id so that two batches cannot deadlock on each other's keys. A workflow
-- started eagerly (%(me)s is a live worker of the version its id is routed to) is claimed in the same statement.
WITH b AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(names)s::text[], %(queues)s::text[], %(priorities)s::smallint[],
                         %(delays)s::float8[], %(codecs)s::smallint[], %(inputs)s::bytea[], %(attributes)s::jsonb[])
                  AS t(id, name, queue, priority, delay, codec, input, attributes)),
e AS MATERIALIZED (
    SELECT k.id AS worker_id, t.current, t.ramping, t.percent FROM everstep.routing t
      JOIN everstep.worker k ON k.id = %(me)s::uuid AND k.state = 1),
w AS (
    INSERT INTO everstep.workflow (id, name, queue, attributes, codec, input, created_at)
    SELECT id, name, queue, attributes, codec, input, everstep.clock() FROM b
    ON CONFLICT (id) DO NOTHING RETURNING id),
r AS (
    INSERT INTO everstep.run (id, name, queue, priority, version, state, ready_at, wake_at, worker_id, epoch)
    SELECT b.id, b.name, b.queue, b.priority,
           CASE WHEN e.worker_id IS NOT NULL THEN %(version)s END,
           CASE WHEN e.worker_id IS NOT NULL THEN 2 WHEN b.delay > 0 THEN 3 ELSE 1 END,
           everstep.clock(),
           CASE WHEN b.delay > 0 THEN everstep.clock() + make_interval(secs => b.delay) END,
           e.worker_id, CASE WHEN e.worker_id IS NOT NULL THEN 1 ELSE 0 END
      FROM b JOIN w ON w.id = b.id
      LEFT JOIN e ON b.delay <= 0 AND b.name = ANY (%(known)s::text[]) AND %(version)s =
           CASE WHEN (hashtext(b.id) & 2147483647) %% 100 < e.percent THEN e.ramping ELSE e.current END
    RETURNING id, state),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 1, b.queue, b.name, 0, 0, count(*), 0 FROM b JOIN w ON w.id = b.id GROUP BY b.queue, b.name
    UNION ALL
    SELECT 2, b.queue, '', 0, everstep.bucket(0), count(*), 0 FROM b JOIN r ON r.id = b.id
     WHERE r.state = 2 GROUP BY b.queue)
SELECT ARRAY(SELECT b.id FROM b LEFT JOIN w ON w.id = b.id WHERE w.id IS NULL) AS existing,
       ARRAY(SELECT r.id FROM r WHERE r.state = 2) AS claimed;

-- name: inputs
-- What the given ids were started with, to tell a repeated start from another one's id.
SELECT id, name, codec, input FROM everstep.workflow WHERE id = ANY (%(ids)s::text[]);

-- name: outcomes
-- Those of the given workflows that have finished.
SELECT id, name, status, codec, output, error FROM everstep.workflow
 WHERE id = ANY (%(ids)s::text[]) AND status <> 0;

-- name: known_ids
SELECT id FROM everstep.workflow WHERE id = ANY (%(ids)s::text[]);

-- name: describe
SELECT id, name, status, queue, version, parent_id, attributes, created_at, finished_at, priority, wake_at,
       waits_for, crashes, input, output, error_type, error_message, error_traceback
  FROM everstep.workflows WHERE id = %(id)s;

-- name: list_workflows
SELECT id, name, status, queue, version, parent_id, attributes, created_at, finished_at, priority, wake_at,
       waits_for, crashes, NULL::jsonb AS input, NULL::jsonb AS output, error_type, error_message,
       NULL::text AS error_traceback
  FROM everstep.workflows
 WHERE (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
   AND (%(name)s::text IS NULL OR name = %(name)s)
   AND (%(queue)s::text IS NULL OR queue = %(queue)s)
   AND (%(version)s::text IS NULL OR version = %(version)s)
   AND (%(prefix)s::text IS NULL OR starts_with(id, %(prefix)s))
   AND (%(attributes)s::jsonb IS NULL OR attributes @> %(attributes)s)
   AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
 ORDER BY created_at DESC, id DESC LIMIT %(limit)s;

-- name: list_steps
SELECT workflow_id, branch, seq, name, kind, status, attempts, duration, recorded_at, output,
       error_type, error_message
  FROM everstep.steps WHERE workflow_id = %(id)s
 ORDER BY branch, seq LIMIT %(limit)s;

-- name: cancel
-- Running: leave a note that the next commit or heartbeat brings to the worker. Otherwise: finish it here.
-- The lock comes first and decides which, so a claim or completion racing this one is seen as it ended.
WITH l AS MATERIALIZED (
    SELECT r.id, r.state, r.version, r.epoch FROM everstep.run r WHERE r.id = %(id)s FOR UPDATE),
u AS (
    UPDATE everstep.run r SET cancel = true FROM l WHERE r.id = l.id AND l.state = 2 RETURNING r.id),
d AS (
    DELETE FROM everstep.run r USING l WHERE r.id = l.id AND l.state <> 2 RETURNING r.id),
w AS (
    UPDATE everstep.workflow w SET status = 3, version = l.version, finished_at = everstep.clock(),
           finished_epoch = l.epoch, error = %(error)s
      FROM l JOIN d ON d.id = l.id WHERE w.id = d.id
    RETURNING w.queue, w.name, extract(epoch FROM everstep.clock() - w.created_at)::float8 AS seconds),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 3, queue, name, 3, everstep.bucket(seconds), 1, seconds FROM w)
SELECT CASE WHEN EXISTS (SELECT FROM u) THEN 'cancelling' WHEN EXISTS (SELECT FROM d) THEN 'cancelled'
            WHEN EXISTS (SELECT FROM everstep.workflow WHERE id = %(id)s) THEN 'finished'
            ELSE 'unknown' END AS verdict;
