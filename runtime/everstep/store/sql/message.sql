-- Messages, events and results of other workflows: what a waiting workflow looks at, and how it is woken.

-- name: send
-- From outside. A dead or unknown destination is told to the caller; a repeated idempotency key changes nothing.
WITH o AS MATERIALIZED (
    SELECT w.id FROM everstep.workflow w WHERE w.id = %(id)s AND w.status = 0),
i AS (
    INSERT INTO everstep.message (workflow_id, topic, idempotency, codec, body, sent_at)
    SELECT o.id, %(topic)s, %(key)s, %(codec)s, %(body)s, everstep.clock() FROM o
    ON CONFLICT (workflow_id, idempotency) WHERE idempotency IS NOT NULL DO NOTHING RETURNING n)
SELECT EXISTS (SELECT FROM o) AS open, EXISTS (SELECT FROM i) AS sent;

-- name: wake
-- Something happened to these workflows. No condition on state in WHERE: a row that is just about to park would
-- not be seen. The rows are locked in the order of their ids, so that two wakers cannot deadlock.
WITH l AS MATERIALIZED (
    SELECT r.id FROM everstep.run r WHERE r.id = ANY (%(ids)s::text[]) ORDER BY r.id FOR UPDATE),
u AS (
    UPDATE everstep.run r SET signals = r.signals + 1,
           state = CASE WHEN r.state = 3 AND r.epoch > 0 THEN 1 ELSE r.state END,
           ready_at = CASE WHEN r.state = 3 AND r.epoch > 0 THEN everstep.clock() ELSE r.ready_at END,
           wake_at = CASE WHEN r.state = 3 AND r.epoch > 0 THEN NULL ELSE r.wake_at END,
           wait_key = CASE WHEN r.state = 3 AND r.epoch > 0 THEN NULL ELSE r.wait_key END
     WHERE r.id = ANY (ARRAY(SELECT id FROM l)) RETURNING r.id, r.state)
SELECT count(*) FILTER (WHERE state = 1) AS woken FROM u;

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
                  WHEN 'message' THEN EXISTS (
                      SELECT FROM everstep.message m WHERE m.workflow_id = r.id AND m.consumed_seq IS NULL
                         AND m.topic = substr(k.key, 9))
                  WHEN 'workflow' THEN EXISTS (
                      SELECT FROM everstep.workflow w WHERE w.id = substr(k.key, 10) AND w.status <> 0)
                  WHEN 'event' THEN EXISTS (
                      SELECT FROM everstep.workflow w LEFT JOIN everstep.event e
                          ON e.workflow_id = w.id AND e.key = substr(k.key, 8 + length(split_part(k.key, ':', 2)))
                       WHERE w.id = replace(replace(split_part(k.key, ':', 2), '%%3A', ':'), '%%25', '%%')
                         AND (w.status <> 0 OR e.key IS NOT NULL)) END)
     LIMIT 500 FOR UPDATE OF r SKIP LOCKED),
u AS (
    UPDATE everstep.run r SET state = 1, signals = r.signals + 1, ready_at = everstep.clock(), wake_at = NULL,
           wait_key = NULL
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) RETURNING r.id)
SELECT count(*) AS woken FROM u;

-- name: peek_message
-- The oldest message of a topic that is not taken yet, and the count of signals this snapshot knows of.
SELECT r.signals, m.n, m.codec, m.body
  FROM everstep.run r
  LEFT JOIN LATERAL (
    SELECT m.n, m.codec, m.body FROM everstep.message m
     WHERE m.workflow_id = r.id AND m.topic = %(topic)s AND m.consumed_seq IS NULL
       AND m.n <> ALL (%(taken)s::bigint[])
     ORDER BY m.n LIMIT 1) m ON true
 WHERE r.id = %(id)s;

-- name: watch
-- Ask to be woken by another workflow. No row: it has finished, or never was.
UPDATE everstep.run r
   SET waiters = CASE WHEN %(waiter)s = ANY (r.waiters) THEN r.waiters ELSE array_append(r.waiters, %(waiter)s) END
 WHERE r.id = %(id)s RETURNING r.id;

-- name: peek_outcome
-- Another workflow's outcome, and the count of signals this snapshot knows of.
SELECT r.signals, w.id IS NOT NULL AS known, w.name, w.status, w.codec, w.output, w.error
  FROM everstep.run r LEFT JOIN everstep.workflow w ON w.id = %(target)s
 WHERE r.id = %(id)s;

-- name: peek_event
SELECT r.signals, w.id IS NOT NULL AS known, w.status, e.codec, e.body
  FROM everstep.run r LEFT JOIN everstep.workflow w ON w.id = %(target)s
  LEFT JOIN everstep.event e ON e.workflow_id = %(target)s AND e.key = %(key)s
 WHERE r.id = %(id)s;

-- name: read_stream
-- What a workflow has written after a place, and whether more can come.
SELECT s.n, s.codec, s.body, w.status <> 0 AS finished
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
