-- The sampler's statements. They look at open work (everstep.run and its partial indexes), at small tables and
-- at totals: never at history, so their cost does not grow with what has finished.
-- A gauge's columns are its labels and `value`; a row feeds each metric all of whose labels it has.

-- name: metrics_fold
-- Move deltas into totals, exactly once: whoever deletes a delta adds it, in one statement. A bounded number
-- at a time, so that a backlog cannot outgrow the time limit; ordered, so that two folds cannot deadlock.
WITH c AS MATERIALIZED (
    SELECT ctid FROM everstep.metric_delta LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
d AS (
    DELETE FROM everstep.metric_delta WHERE ctid = ANY (ARRAY(SELECT ctid FROM c))
    RETURNING kind, queue, name, outcome, bucket, n, seconds),
s AS MATERIALIZED (
    SELECT kind, queue, name, outcome, bucket, sum(n)::bigint AS n, sum(seconds) AS seconds, count(*) AS deltas
      FROM d GROUP BY kind, queue, name, outcome, bucket),
u AS (
    INSERT INTO everstep.metric_total AS t (kind, queue, name, outcome, bucket, n, seconds)
    SELECT kind, queue, name, outcome, bucket, n, seconds FROM s ORDER BY kind, queue, name, outcome, bucket
    ON CONFLICT (kind, queue, name, outcome, bucket)
    DO UPDATE SET n = t.n + excluded.n, seconds = t.seconds + excluded.seconds)
SELECT coalesce(sum(deltas), 0)::bigint AS folded FROM s;

-- name: metrics_totals
SELECT kind, queue, name, outcome, bucket, n, seconds FROM everstep.metric_total;

-- name: metrics_open
-- One pass over open work for both its metrics: each adds up the rows over the labels it does not have.
-- A declared queue and a live version show 0 when they are empty.
SELECT r.queue, everstep.status_word(0::smallint, r.state, NULL) AS status, r.version, count(*)::float8 AS value
  FROM everstep.run r GROUP BY r.queue, r.state, r.version
UNION ALL
SELECT q.name, s.status, NULL, 0 FROM everstep.queue q, unnest(ARRAY['queued', 'running', 'waiting']) AS s(status)
UNION ALL
SELECT NULL, NULL, v.version, 0 FROM everstep.version v WHERE v.state NOT IN ('drained', 'retired');

-- name: metrics_oldest
-- Steps through the index run_ready from queue to queue and takes the first entry of each priority; so a queue
-- that nobody declared, and hence nobody serves, is seen too. Then through run_partition, from partition to partition.
WITH RECURSIVE q AS (
    (SELECT r.queue FROM everstep.run r WHERE r.state = 1 AND r.partition IS NULL ORDER BY r.queue LIMIT 1)
    UNION ALL
    SELECT (SELECT r.queue FROM everstep.run r
             WHERE r.state = 1 AND r.partition IS NULL AND r.queue > q.queue ORDER BY r.queue LIMIT 1)
      FROM q WHERE q.queue IS NOT NULL),
p AS (
    (SELECT r.queue, r.partition FROM everstep.run r WHERE r.state = 1 AND r.partition IS NOT NULL
      ORDER BY r.queue, r.partition LIMIT 1)
    UNION ALL
    SELECT n.queue, n.partition FROM p CROSS JOIN LATERAL (
        SELECT r.queue, r.partition FROM everstep.run r
         WHERE r.state = 1 AND r.partition IS NOT NULL AND (r.queue, r.partition) > (p.queue, p.partition)
         ORDER BY r.queue, r.partition LIMIT 1) n)
SELECT o.queue, extract(epoch FROM min(o.ready_at))::float8 AS value FROM (
    SELECT q.queue, l.ready_at FROM q CROSS JOIN generate_series(0, 3) AS s(priority) CROSS JOIN LATERAL (
        SELECT r.ready_at FROM everstep.run r
         WHERE r.state = 1 AND r.queue = q.queue AND r.partition IS NULL AND r.priority = s.priority
           AND r.ready_at <= everstep.clock()
         ORDER BY r.ready_at LIMIT 1) l
    UNION ALL
    SELECT p.queue, l.ready_at FROM p CROSS JOIN generate_series(0, 3) AS s(priority) CROSS JOIN LATERAL (
        SELECT r.ready_at FROM everstep.run r
         WHERE r.state = 1 AND r.queue = p.queue AND r.partition = p.partition AND r.priority = s.priority
           AND r.ready_at <= everstep.clock()
         ORDER BY r.ready_at LIMIT 1) l) o
 GROUP BY o.queue;

-- name: metrics_queues
SELECT q.name AS queue, q.paused::integer::float8 AS value FROM everstep.queue q;

-- name: metrics_workers
SELECT CASE k.state WHEN 1 THEN 'live' WHEN 2 THEN 'draining' ELSE 'dead' END AS state, k.version,
       count(*)::float8 AS value
  FROM everstep.worker k GROUP BY k.state, k.version;
