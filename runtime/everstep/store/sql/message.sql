-- Messages, events and results of other workflows: what a waiting workflow looks at, and how it is woken.

-- name: send
-- From outside: a batch, sorted by receiver so that two batches cannot deadlock on each other's keys; to each one in the
-- order in which they were sent. A dead or unknown receiver is told to the caller; a repeated key changes nothing,
-- be it one of the same batch.
WITH b AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(topics)s::text[], %(keys)s::text[], %(bodies)s::bytea[]) WITH ORDINALITY
                  AS t(id, topic, key, body, place)),
o AS MATERIALIZED (
    SELECT w.id, w.status = 0 AS open
      FROM (SELECT DISTINCT id FROM unnest(%(ids)s::text[]) AS t(id)) AS t JOIN everstep.workflow w ON w.id = ANY (ARRAY[t.id])),
i AS (
    INSERT INTO everstep.message (workflow_id, topic, idempotency, codec, body, sent_at)
    SELECT b.id, b.topic, b.key, %(codec)s, b.body, everstep.clock() FROM b JOIN o ON o.id = b.id AND o.open
     ORDER BY b.place
    ON CONFLICT (workflow_id, idempotency) WHERE idempotency IS NOT NULL DO NOTHING)
SELECT ARRAY(SELECT o.id FROM o WHERE o.open) AS open, ARRAY(SELECT o.id FROM o WHERE NOT o.open) AS finished;

-- name: wake
-- Something happened to these workflows. No condition on state in WHERE: a row that is just about to park would
-- not be seen. The rows are locked in the order of their ids, so that two wakers cannot deadlock.
WITH l AS MATERIALIZED (
    SELECT r.id FROM everstep.run r WHERE r.id = ANY (%(ids)s::text[]) ORDER BY r.id COLLATE "POSIX" FOR UPDATE),
u AS (
    UPDATE everstep.run r SET signals = r.signals + 1,
           state = CASE WHEN r.state = 3 AND r.epoch > 0 THEN 1 ELSE r.state END,
           ready_at = CASE WHEN r.state = 3 AND r.epoch > 0 THEN everstep.clock() ELSE r.ready_at END,
           wake_at = CASE WHEN r.state = 3 AND r.epoch > 0 THEN NULL ELSE r.wake_at END,
           wait_key = CASE WHEN r.state = 3 AND r.epoch > 0 THEN NULL ELSE r.wait_key END
     WHERE r.id = ANY (ARRAY(SELECT id FROM l)) RETURNING r.id, r.state)
SELECT count(*) FILTER (WHERE state = 1) AS woken,
       ARRAY(SELECT r.id FROM everstep.run r WHERE r.id = ANY (%(ids)s::text[])
              AND r.id <> ALL (ARRAY(SELECT l.id FROM l))) AS missed FROM u;

-- name: wake_forgotten
-- Level-triggered: waiting workflows with an awaited message that nobody has taken, whose awaited workflow has
-- finished, or whose awaited event is there, or can no longer come. Only a waker that died between a commit and its
-- wake leaves any, and a dead letter. wait_key is one key, or a JSON array of those of several branches.
WITH c AS MATERIALIZED (
    SELECT r.id FROM everstep.run r
     WHERE r.state = 3 AND r.epoch > 0 AND r.wait_key <> 'sleep' AND EXISTS (
           SELECT FROM jsonb_array_elements_text(CASE WHEN r.wait_key LIKE '[%%' THEN r.wait_key::jsonb
                                                      ELSE jsonb_build_array(r.wait_key) END) AS k(key)
            WHERE CASE split_part(k.key, ':', 1)
                  WHEN 'message' THEN (
                      SELECT true FROM everstep.message m WHERE m.workflow_id = r.id AND m.consumed_seq IS NULL
                         AND m.topic = substr(k.key, 9) LIMIT 1)
                  WHEN 'workflow' THEN (
                      SELECT w.status <> 0 FROM everstep.workflow w WHERE w.id = substr(k.key, 10) LIMIT 1)
                  WHEN 'event' THEN (
                      SELECT w.status <> 0 OR (
                             SELECT true FROM everstep.event e
                              WHERE e.workflow_id = w.id
                                AND e.key = substr(k.key, 8 + length(split_part(k.key, ':', 2))) LIMIT 1) IS NOT NULL
                        FROM everstep.workflow w
                       WHERE w.id = replace(replace(split_part(k.key, ':', 2), '%%3A', ':'), '%%25', '%%') LIMIT 1) END)
     LIMIT 500 FOR UPDATE OF r SKIP LOCKED),
u AS (
    UPDATE everstep.run r SET state = 1, signals = r.signals + 1, ready_at = everstep.clock(), wake_at = NULL,
           wait_key = NULL
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) RETURNING r.id)
SELECT count(*) AS woken FROM u;

-- The four that follow answer for many waiting workflows at once, by the number of the question. Each row is found
-- by its key, one by one: a plan that was made while the tables were small must not read them whole when they are not.

-- name: peek_message
-- The oldest message of a topic that is not taken yet, and the count of signals this snapshot knows of.
SELECT q.n AS question, r.signals, m.n, m.codec, m.body
  FROM unnest(%(ids)s::text[], %(topics)s::text[]) WITH ORDINALITY AS q(id, topic, n)
 CROSS JOIN LATERAL (SELECT r.signals FROM everstep.run r WHERE r.id = q.id LIMIT 1) r
  LEFT JOIN LATERAL (
    SELECT m.n, m.codec, m.body FROM everstep.message m
     WHERE m.workflow_id = q.id AND m.topic = q.topic AND m.consumed_seq IS NULL
       AND m.n <> ALL (%(taken)s::bigint[])
     ORDER BY m.n LIMIT 1) m ON true;

-- name: watch
-- Ask to be woken by other workflows. One that is not there has finished, or never was; a child knows its parent from
-- its start on. Locked in the order of their ids, like by a wake. A list that grows is rid of those that have
-- finished, once in a while: of a workflow without an end it would grow for ever.
WITH q AS MATERIALIZED (
    SELECT t.id, array_agg(t.waiter) AS waiters
      FROM unnest(%(ids)s::text[], %(waiters)s::text[]) AS t(id, waiter) GROUP BY t.id),
l AS MATERIALIZED (
    SELECT r.id FROM everstep.run r
     WHERE r.id = ANY (ARRAY(
         SELECT q.id FROM q CROSS JOIN LATERAL (SELECT r.waiters FROM everstep.run r WHERE r.id = q.id LIMIT 1) r
          WHERE NOT coalesce(r.waiters @> q.waiters, false)))
     ORDER BY r.id COLLATE "POSIX" FOR NO KEY UPDATE)
UPDATE everstep.run r
   SET waiters = CASE WHEN cardinality(r.waiters) / 64 = (cardinality(r.waiters) + cardinality(q.waiters)) / 64
                      THEN r.waiters
                      ELSE ARRAY(SELECT w FROM unnest(r.waiters) AS w WHERE NOT EXISTS (
                                     SELECT FROM everstep.workflow o WHERE o.id = w AND o.status <> 0)) END
                 || ARRAY(SELECT w FROM unnest(q.waiters) AS w WHERE w <> ALL (coalesce(r.waiters, '{}')))
  FROM q WHERE r.id = ANY (ARRAY[q.id]) AND q.id = ANY (ARRAY(SELECT id FROM l));

-- name: peek_outcome
-- Another workflow's outcome, and the count of signals this snapshot knows of.
SELECT q.n AS question, r.signals, w.id IS NOT NULL AS known, w.name, w.status, w.codec, w.output, w.error
  FROM unnest(%(ids)s::text[], %(targets)s::text[]) WITH ORDINALITY AS q(id, target, n)
 CROSS JOIN LATERAL (SELECT r.signals FROM everstep.run r WHERE r.id = q.id LIMIT 1) r
  LEFT JOIN LATERAL (
    SELECT w.id, w.name, w.status, w.codec, w.output, w.error FROM everstep.workflow w
     WHERE w.id = q.target LIMIT 1) w ON true;

-- name: peek_event
SELECT q.n AS question, r.signals, w.id IS NOT NULL AS known, w.status, e.codec, e.body
  FROM unnest(%(ids)s::text[], %(targets)s::text[], %(keys)s::text[]) WITH ORDINALITY AS q(id, target, key, n)
 CROSS JOIN LATERAL (SELECT r.signals FROM everstep.run r WHERE r.id = q.id LIMIT 1) r
  LEFT JOIN LATERAL (
    SELECT w.id, w.status FROM everstep.workflow w WHERE w.id = q.target LIMIT 1) w ON true
  LEFT JOIN LATERAL (
    SELECT e.codec, e.body FROM everstep.event e
     WHERE e.workflow_id = q.target AND e.key = q.key LIMIT 1) e ON true;

-- name: read_stream
-- What a workflow has written after a place, and whether more can come.
SELECT s.n, s.branch, s.seq, s.codec, s.body, w.status <> 0 AS finished
  FROM everstep.workflow w
  LEFT JOIN everstep.stream s ON s.workflow_id = w.id AND s.key = %(key)s AND s.n > %(after)s
 WHERE w.id = %(id)s ORDER BY s.n LIMIT 1000;

-- name: events
-- All that a workflow has published, for readers outside of a workflow. No row: no such workflow.
SELECT e.key, e.codec, e.body, e.set_at
  FROM everstep.workflow w LEFT JOIN everstep.event e ON e.workflow_id = w.id
 WHERE w.id = %(id)s ORDER BY e.key;

-- name: event
-- For readers outside of a workflow.
SELECT w.status, e.codec, e.body
  FROM everstep.workflow w LEFT JOIN everstep.event e ON e.workflow_id = w.id AND e.key = %(key)s
 WHERE w.id = %(id)s;
