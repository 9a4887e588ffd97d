-- Transitions asked for from outside: start, cancel; and the questions a client asks.

-- name: start
-- A batch of starts, sorted by id so that two batches cannot deadlock on each other's keys. A workflow started eagerly
-- (%(me)s is a live worker of the version its id is routed to, and listens to its queue) is claimed in the same
-- statement, if the queue has no limit, is not paused, and it has no partition.
WITH b AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(names)s::text[], %(queues)s::text[], %(priorities)s::smallint[],
                         %(delays)s::float8[], %(run_ats)s::timestamptz[], %(timeouts)s::float8[],
                         %(deadlines)s::timestamptz[], %(dedups)s::text[], %(versions)s::text[], %(partitions)s::text[],
                         %(codecs)s::smallint[], %(inputs)s::bytea[], %(attributes)s::jsonb[])
                  AS t(id, name, queue, priority, delay, run_at, timeout, deadline, dedup, version, partition,
                       codec, input, attributes)),
k AS MATERIALIZED (
    SELECT b.id, r.id AS holder FROM b JOIN everstep.run r ON r.queue = ANY (ARRAY[b.queue]) AND r.dedup = b.dedup
     WHERE b.dedup IS NOT NULL AND r.id <> b.id),
e AS MATERIALIZED (
    SELECT k.id AS worker_id, t.current, t.ramping, t.percent FROM everstep.routing t
      JOIN everstep.worker k ON k.id = %(me)s::uuid AND k.state = 1),
w AS (
    INSERT INTO everstep.workflow (id, name, queue, attributes, codec, input, created_at)
    SELECT id, name, queue, attributes, codec, input, everstep.clock() FROM b
     WHERE b.dedup IS NULL OR b.id <> ALL (ARRAY(SELECT k.id FROM k))
    ON CONFLICT (id) DO NOTHING RETURNING id),
r AS (
    INSERT INTO everstep.run (id, name, queue, partition, priority, version, state, ready_at, wake_at, deadline, dedup,
                              worker_id, epoch)
    SELECT b.id, b.name, b.queue, b.partition, b.priority,
           CASE WHEN e.worker_id IS NOT NULL THEN %(version)s ELSE b.version END,
           CASE WHEN e.worker_id IS NOT NULL THEN 2 WHEN b.delay > 0 OR b.run_at > everstep.clock() THEN 3 ELSE 1 END,
           everstep.clock(),
           CASE WHEN b.run_at > everstep.clock() THEN b.run_at
                WHEN b.delay > 0 THEN everstep.clock() + make_interval(secs => b.delay) END,
           least(b.deadline, everstep.clock() + make_interval(secs => b.timeout)), b.dedup,
           e.worker_id, CASE WHEN e.worker_id IS NOT NULL THEN 1 ELSE 0 END
      FROM b JOIN w ON w.id = b.id
      LEFT JOIN e ON b.delay <= 0 AND b.run_at IS NULL AND b.version IS NULL AND b.name = ANY (%(known)s::text[])
       AND b.queue = ANY (%(listened)s::text[]) AND b.partition IS NULL
       AND NOT EXISTS (SELECT FROM everstep.queue q WHERE q.name = b.queue
                          AND (NOT q.open OR q.worker_concurrency IS NOT NULL)) AND %(version)s =
           CASE WHEN (hashtext(b.id) & 2147483647) %% 100 < e.percent THEN e.ramping ELSE e.current END
    RETURNING id, state, deadline),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 1, b.queue, b.name, 0, 0, count(*), 0 FROM b JOIN w ON w.id = b.id GROUP BY b.queue, b.name
    UNION ALL
    SELECT 2, b.queue, '', 0, everstep.bucket(0), count(*), 0 FROM b JOIN r ON r.id = b.id
     WHERE r.state = 2 GROUP BY b.queue)
SELECT ARRAY(SELECT b.id FROM b LEFT JOIN w ON w.id = b.id WHERE w.id IS NULL
              AND b.id <> ALL (ARRAY(SELECT k.id FROM k))) AS existing,
       ARRAY(SELECT k.id FROM k ORDER BY k.id) AS duplicates,
       ARRAY(SELECT k.holder FROM k ORDER BY k.id) AS holders,
       ARRAY(SELECT r.id FROM r WHERE r.state = 2) AS claimed,
       ARRAY(SELECT r.id FROM r WHERE r.state = 2 AND r.deadline IS NOT NULL ORDER BY r.id) AS limited,
       ARRAY(SELECT r.deadline FROM r WHERE r.state = 2 AND r.deadline IS NOT NULL ORDER BY r.id) AS deadlines;

-- name: start_debounced
-- One start, or another input for one that waits. Multi-statement on the server: it decides under the run's lock.
SELECT id, created FROM everstep.start_debounced(
    %(id)s::text, %(name)s::text, %(key)s::text, %(window)s::float8, %(max_wait)s::float8, %(input)s::bytea,
    %(codec)s::smallint, %(queue)s::text, %(partition)s::text, %(priority)s::smallint, %(version)s::text,
    least(%(deadline)s::timestamptz, everstep.clock() + make_interval(secs => %(timeout)s::float8)),
    %(attributes)s::jsonb);

-- name: inputs
-- What the given ids were started with, to tell a repeated start from another one's id.
SELECT w.id, w.name, w.codec, w.input FROM unnest(%(ids)s::text[]) AS t(id) JOIN everstep.workflow w ON w.id = ANY (ARRAY[t.id]);

-- name: outcomes
-- Those of the given workflows that have finished. A join, because there may be thousands: a plan made while the table
-- was small would hold each row against each id.
SELECT w.id, w.name, w.status, w.codec, w.output, w.error
  FROM unnest(%(ids)s::text[]) AS t(id) JOIN everstep.workflow w ON w.id = ANY (ARRAY[t.id]) WHERE w.status <> 0;

-- name: known_ids
SELECT w.id FROM unnest(%(ids)s::text[]) AS t(id) JOIN everstep.workflow w ON w.id = ANY (ARRAY[t.id]);

-- name: describe
-- What a codec has made comes along; its first byte tells, which no JSON begins with. So does the whole error, for its
-- causes, of which the view knows nothing. What could be claimed, were there a worker of its version, waits for that.
SELECT v.id, v.name, v.status, v.queue, v.version, v.parent_id, v.attributes, v.created_at, v.finished_at, v.priority,
       v.wake_at, CASE WHEN v.status <> 'queued' OR v.version IS NULL THEN v.waits_for
                       WHEN NOT EXISTS (SELECT FROM everstep.worker k WHERE k.version = v.version AND k.state = 1
                                           AND k.lease_until > everstep.clock()) THEN 'version:' || v.version
                       END AS waits_for, v.crashes, v.input, v.output, v.error_type, v.error_message, v.error_traceback,
       v.generation,
       CASE WHEN substr(w.input, 1, 1) IN ('\x00', '\x01') THEN w.input END AS encoded_input,
       CASE WHEN substr(w.output, 1, 1) = '\x00' THEN w.output END AS encoded_output,
       CASE WHEN substr(w.error, 1, 1) = '\x00' THEN w.error END AS encoded_error,
       CASE WHEN substr(w.error, 1, 1) = '{' THEN w.error END AS plain_error
  FROM everstep.workflows v JOIN everstep.workflow w ON w.id = v.id WHERE v.id = %(id)s;

-- name: list_workflows
-- The newest first. Nothing has them in that order: `within` so many seconds the index on created_at finds them.
SELECT v.*, CASE WHEN substr(w.error, 1, 1) = '\x00' THEN w.error END AS encoded_error
  FROM (
SELECT id, name, status, queue, version, parent_id, attributes, created_at, finished_at, priority, wake_at,
       waits_for, crashes, NULL::jsonb AS input, NULL::jsonb AS output, error_type, error_message,
       NULL::text AS error_traceback, generation
  FROM everstep.workflows
 WHERE (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
   AND (%(name)s::text IS NULL OR name = %(name)s)
   AND (%(queue)s::text IS NULL OR queue = %(queue)s)
   AND (%(version)s::text IS NULL OR version = %(version)s)
   AND (%(prefix)s::text IS NULL OR starts_with(id, %(prefix)s))
   AND (%(attributes)s::jsonb IS NULL OR attributes @> %(attributes)s)
   AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
   AND (%(within)s::float8 IS NULL OR created_at >= everstep.clock() - make_interval(secs => %(within)s))
 ORDER BY created_at DESC, id DESC LIMIT %(limit)s) v JOIN everstep.workflow w ON w.id = v.id
 ORDER BY v.created_at DESC, v.id DESC;

-- name: list_steps
SELECT s.workflow_id, s.branch, s.seq, s.name, s.kind, s.status, s.attempts, s.duration, s.recorded_at, s.output,
       s.error_type, s.error_message, s.generation, c.kind AS kind_number,
       CASE WHEN substr(coalesce(c.error, c.output), 1, 1) = '\x00' THEN coalesce(c.error, c.output) END AS encoded
  FROM everstep.steps s JOIN everstep.checkpoint c USING (workflow_id, branch, seq) WHERE workflow_id = %(id)s
 ORDER BY generation, branch, seq LIMIT %(limit)s;

-- name: cancel
-- Running: leave a note that the next commit or heartbeat brings to the worker. Otherwise: finish it here.
-- The lock comes first and decides which, so a claim or completion racing this one is seen as it ended. What was
-- waited for may have made the workflow ready after this statement's time.
WITH l AS MATERIALIZED (
    SELECT r.id, r.state, r.version, r.epoch, r.waiters, r.ready_at FROM everstep.run r
     WHERE r.id = ANY (%(ids)s::text[]) ORDER BY r.id COLLATE "POSIX" FOR UPDATE),
u AS (
    UPDATE everstep.run r SET cancel = true FROM l WHERE r.id = ANY (ARRAY[l.id]) AND l.state = 2 RETURNING r.id),
d AS (
    DELETE FROM everstep.run r USING l WHERE r.id = ANY (ARRAY[l.id]) AND l.state <> 2 RETURNING r.id),
w AS (
    UPDATE everstep.workflow w SET status = 3, version = l.version,
           finished_at = greatest(everstep.clock(), l.ready_at), finished_epoch = l.epoch, error = %(error)s
      FROM l JOIN d ON d.id = l.id WHERE w.id = ANY (ARRAY[d.id])
    RETURNING w.queue, w.name, extract(epoch FROM everstep.clock() - w.created_at)::float8 AS seconds),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 3, queue, name, 3, everstep.bucket(seconds), 1, seconds FROM w)
SELECT ARRAY(SELECT id FROM u) AS cancelling, ARRAY(SELECT id FROM d) AS cancelled,
       ARRAY(SELECT DISTINCT unnest(l.waiters) FROM l JOIN d ON d.id = l.id) AS wakes;

-- name: overdue
-- Open workflows whose deadline has passed and that nobody has told yet.
SELECT r.id FROM everstep.run r
 WHERE r.deadline <= everstep.clock() AND NOT (r.state = 2 AND r.cancel) ORDER BY r.deadline LIMIT 500;

-- name: descendants
-- Open descendants of a workflow: children, their children, and so on.
WITH RECURSIVE t AS (
    SELECT w.id, w.status FROM everstep.workflow w WHERE w.parent_id = %(id)s
    UNION ALL
    SELECT w.id, w.status FROM everstep.workflow w JOIN t ON w.parent_id = t.id)
SELECT id FROM t WHERE status = 0;

-- name: restart
-- A workflow that failed begins anew under its id: its log, events and streams are emptied, the messages it took are
-- in its mailbox again, and it is queued. Returns no id if it is open, or succeeded, or if another open workflow holds
-- its deduplication key.
WITH f AS MATERIALIZED (
    SELECT w.id, w.name, w.queue, w.finished_epoch FROM everstep.workflow w
     WHERE w.id = %(id)s AND w.status IN (2, 3, 4) FOR UPDATE),
h AS MATERIALIZED (
    SELECT r.id FROM f JOIN everstep.run r ON r.queue = ANY (ARRAY[f.queue]) AND r.dedup = %(dedup)s::text),
o AS MATERIALIZED (SELECT * FROM f WHERE NOT EXISTS (SELECT FROM h)),
w AS (
    UPDATE everstep.workflow w SET status = 0, version = NULL, output = NULL, error = NULL, finished_at = NULL,
           finished_by = NULL, finished_epoch = NULL
      FROM o WHERE w.id = ANY (ARRAY[o.id])),
d AS (DELETE FROM everstep.checkpoint c USING o WHERE c.workflow_id = ANY (ARRAY[o.id])),
e AS (DELETE FROM everstep.event e USING o WHERE e.workflow_id = ANY (ARRAY[o.id])),
s AS (DELETE FROM everstep.stream s USING o WHERE s.workflow_id = ANY (ARRAY[o.id])),
t AS (
    UPDATE everstep.message m SET consumed_branch = NULL, consumed_seq = NULL
      FROM o WHERE m.workflow_id = ANY (ARRAY[o.id]) AND m.consumed_seq IS NOT NULL),
r AS (
    INSERT INTO everstep.run (id, name, queue, partition, priority, version, state, ready_at, wake_at, deadline, dedup, epoch)
    SELECT o.id, o.name, o.queue, %(partition)s, %(priority)s, %(version)s::text,
           CASE WHEN %(delay)s::float8 > 0 OR %(run_at)s::timestamptz > everstep.clock() THEN 3 ELSE 1 END, everstep.clock(),
           CASE WHEN %(run_at)s::timestamptz > everstep.clock() THEN %(run_at)s::timestamptz
                WHEN %(delay)s::float8 > 0 THEN everstep.clock() + make_interval(secs => %(delay)s::float8) END,
           least(%(deadline)s::timestamptz, everstep.clock() + make_interval(secs => %(timeout)s::float8)),
           %(dedup)s::text, coalesce(o.finished_epoch, 0) + 1 FROM o),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 1, queue, name, 0, 0, 1, 0 FROM o)
SELECT (SELECT id FROM o) AS id, (SELECT id FROM h) AS holder;
