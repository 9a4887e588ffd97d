-- Queues: the claim that keeps limits, declarations from code, and what a person sets. The statements of the
-- protocol are functions of the database (migrations/0004_queues.sql): a claim needs two of them under one lock.

-- name: claim_limited
SELECT c.id, c.name, c.epoch, c.ready_at, c.crashes, c.codec, c.input, c.cancel, c.deadline,
       %(queue)s::text AS queue, c.priority, c.wait, c.more
  FROM everstep.claim_limited(%(queue)s::text, %(names)s::text[], %(version)s::text, %(me)s::uuid,
                              %(limit)s::integer, %(suspect)s::boolean, %(cursors)s::timestamptz[]) AS c;

-- name: declare_queues
SELECT everstep.declare_queue(d.queue, d.declaration, %(version)s::text)
  FROM unnest(%(queues)s::text[], %(declarations)s::jsonb[]) AS d(queue, declaration) ORDER BY d.queue;

-- name: forget_partitions
-- Clocks of partitions that say nothing any more.
WITH c AS MATERIALIZED (
    SELECT k.queue, k.partition FROM everstep.queue_partition k
     WHERE k.tat < everstep.clock() - interval '1 minute' LIMIT 500 FOR UPDATE SKIP LOCKED)
DELETE FROM everstep.queue_partition k USING c WHERE k.queue = c.queue AND k.partition = c.partition;

-- name: list_queues
SELECT queue, paused, ready, delayed, running, waiting, oldest_ready_at, worker_concurrency, max_running, rate,
       partition_max_running, partition_rate
  FROM everstep.queues ORDER BY queue;

-- name: pause_queues
-- Also a queue that only has workflows, and that no worker has declared yet.
INSERT INTO everstep.queue (name, paused, created_at)
SELECT v.queue, %(paused)s, everstep.clock() FROM everstep.v1_queues v
 WHERE v.queue = ANY (%(names)s::text[]) ORDER BY v.queue
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
RETURNING name;

-- name: set_queue
SELECT everstep.set_queue(v.queue, %(change)s::jsonb) FROM everstep.v1_queues v WHERE v.queue = %(name)s;
