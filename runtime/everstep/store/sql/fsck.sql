-- fsck: the invariants of the engine, each as one read-only query that returns nothing when all is well.
--
-- Columns: invariant, workflow_id (null where the finding is about something else), what. At most 100 rows each.
-- Run by `everstep doctor` and after every test; also by hand: psql "$EVERSTEP_DATABASE_URL" -f fsck.sql
--
-- Cost: each query reads what is open, and of what is finished only what finished since everstep.fsck_since,
-- found by a BRIN index: a day's worth takes seconds, '-infinity' one pass over all checkpoints per query.
-- Measured on two busy cores with 500,000 workflows and 1,500,000 checkpoints of a month: 2 s and 36 s.
-- Every query is a transaction's statement of its own under READ COMMITTED, so the vacuum horizon is never
-- held for longer than one query; nothing is locked but the tables' existence.
--
-- MATERIALIZED hides the LIMIT from the planner, which would else hope for an early end and walk whole indexes.
--
-- The numbers are those of docs/internals/fence-and-rescue.md.
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL everstep.fsck_since = '-infinity';
SET LOCAL everstep.fsck_grace = '21 seconds';

-- name: I1
-- One checkpoint per position, as the engine writes it: one outcome, a known kind, within its workflow's life.
WITH found AS MATERIALIZED (
    SELECT 'I1' AS invariant, c.workflow_id,
           format('%s checkpoints at position %s:%s', count(*), c.branch, c.seq) AS what
      FROM everstep.checkpoint c
     WHERE c.workflow_id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT w.id FROM everstep.workflow w
                              WHERE w.finished_at >= current_setting('everstep.fsck_since')::timestamptz)
     GROUP BY c.workflow_id, c.branch, c.seq HAVING count(*) > 1
    UNION ALL
    SELECT 'I1', c.workflow_id, format('checkpoint %s:%s is not as it was written: %s', c.branch, c.seq,
           CASE WHEN (c.output IS NULL) = (c.error IS NULL) THEN 'it has both or neither of output and error'
                WHEN c.kind NOT BETWEEN 1 AND 14 THEN format('kind %s is unknown', c.kind)
                WHEN c.seq < 1 OR c.attempts < 1 OR c.epoch < 1 THEN 'position, attempts and epoch begin at 1'
                ELSE 'it was recorded before its workflow began or after it finished' END)
      FROM everstep.checkpoint c JOIN everstep.workflow w ON w.id = c.workflow_id
     WHERE c.workflow_id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT w.id FROM everstep.workflow w
                              WHERE w.finished_at >= current_setting('everstep.fsck_since')::timestamptz)
       AND ((c.output IS NULL) = (c.error IS NULL) OR c.kind NOT BETWEEN 1 AND 14
            OR c.seq < 1 OR c.attempts < 1 OR c.epoch < 1
            OR c.recorded_at < w.created_at OR c.recorded_at > w.finished_at)
    UNION ALL
    SELECT 'I1', c.workflow_id, 'a checkpoint of a workflow that does not exist'
      FROM everstep.checkpoint c
     WHERE current_setting('everstep.fsck_since')::timestamptz = '-infinity'
       AND NOT EXISTS (SELECT FROM everstep.workflow w WHERE w.id = c.workflow_id))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I2
-- Within a branch the epoch never falls as time goes on: no owner recorded behind its successor. By time and not by
-- seq: steps called together (gather) have places side by side, and the first may end in a later epoch than the second.
WITH found AS MATERIALIZED (
    SELECT 'I2' AS invariant, b.workflow_id,
           format('position %s:%s has epoch %s, the one recorded before it %s', b.branch, b.seq, b.epoch, b.before) AS what
      FROM (SELECT c.workflow_id, c.branch, c.seq, c.epoch,
                   lag(c.epoch) OVER (PARTITION BY c.workflow_id, c.branch ORDER BY c.recorded_at, c.seq) AS before
              FROM everstep.checkpoint c
             WHERE c.workflow_id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT w.id FROM everstep.workflow w
                                      WHERE w.finished_at >= current_setting('everstep.fsck_since')::timestamptz)) b
     WHERE b.epoch < b.before)
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I3
-- A run row exists exactly for every workflow that has not finished.
WITH found AS MATERIALIZED (
    SELECT 'I3' AS invariant, w.id AS workflow_id, 'open, but without a run row: it will never be claimed' AS what
      FROM everstep.workflow w
     WHERE w.status = 0 AND w.created_at >= current_setting('everstep.fsck_since')::timestamptz
       AND NOT EXISTS (SELECT FROM everstep.run r WHERE r.id = w.id)
    UNION ALL
    SELECT 'I3', r.id, CASE WHEN w.id IS NULL THEN 'a run row without a workflow'
                            ELSE 'finished, but its run row is still there: it may run again' END
      FROM everstep.run r LEFT JOIN everstep.workflow w ON w.id = r.id
     WHERE w.id IS NULL OR w.status <> 0)
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I4
-- A terminal status is written once, whole: an ending has its time, epoch and payload, and an open one has none.
WITH found AS MATERIALIZED (
    SELECT 'I4' AS invariant, w.id AS workflow_id,
           CASE WHEN w.status = 0 THEN 'open, but with parts of an ending'
                WHEN w.finished_at < w.created_at THEN 'finished before it began'
                ELSE format('status %s without what belongs to it, or with what does not', w.status) END AS what
      FROM everstep.workflow w
     WHERE (w.status = 0 AND w.created_at >= current_setting('everstep.fsck_since')::timestamptz
            AND num_nonnulls(w.finished_at, w.finished_by, w.finished_epoch, w.output, w.error) > 0)
        OR (w.status <> 0 AND w.finished_at IS NULL
            AND w.created_at >= current_setting('everstep.fsck_since')::timestamptz)
        OR (w.finished_at >= current_setting('everstep.fsck_since')::timestamptz AND w.status <> 0
            AND (w.finished_epoch IS NULL OR w.finished_at < w.created_at
                 OR (w.status = 1) <> (w.output IS NOT NULL) OR (w.status = 1) <> (w.error IS NULL)
                 OR (w.status IN (1, 2) AND (w.finished_by IS NULL OR w.version IS NULL)))))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I5
-- A run has an owner exactly while it is running; an owner has pinned its version and counted its epoch. Its generation
-- is the last one that was begun.
SELECT 'I5' AS invariant, r.id AS workflow_id,
       CASE WHEN r.state = 2 AND r.worker_id IS NULL THEN 'running, but nobody owns it'
            WHEN r.state <> 2 AND r.worker_id IS NOT NULL
                 THEN format('not running, but owned by worker %s', r.worker_id)
            ELSE 'running without a version or at epoch 0' END AS what
  FROM everstep.run r
 WHERE (r.state = 2) <> (r.worker_id IS NOT NULL) OR (r.state = 2 AND (r.version IS NULL OR r.epoch < 1))
UNION ALL
SELECT 'I5', r.id, format('in generation %s, but the last one that was begun is %s', r.generation, c.last)
  FROM everstep.run r CROSS JOIN LATERAL (
    SELECT coalesce(max(substr(c.branch, 2)::integer), 0) AS last FROM everstep.checkpoint c
     WHERE c.workflow_id = r.id AND c.branch >= '~' AND c.kind = 14 AND c.branch ~ '^~[0-9]{1,9}$') c
 WHERE r.generation <> c.last
 LIMIT 100;

-- name: I6
-- No late write: once an epoch has recorded something, no lower one records any more, and an epoch is one worker.
-- Compares the database's times of recording: a clock that was set back looks the same.
WITH e AS MATERIALIZED (
    SELECT c.workflow_id, c.epoch, min(c.recorded_at) AS first_at, max(c.recorded_at) AS last_at,
           count(DISTINCT c.worker_id) AS workers
      FROM everstep.checkpoint c
     WHERE c.workflow_id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT w.id FROM everstep.workflow w
                              WHERE w.finished_at >= current_setting('everstep.fsck_since')::timestamptz)
     GROUP BY c.workflow_id, c.epoch),
found AS MATERIALIZED (
    SELECT 'I6' AS invariant, o.workflow_id,
           format('a checkpoint of a lower epoch was recorded after epoch %s had begun to record', o.epoch) AS what
      FROM (SELECT e.workflow_id, e.epoch, e.first_at,
                   max(e.last_at) OVER (PARTITION BY e.workflow_id ORDER BY e.epoch
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS last_before
              FROM e) o
     WHERE o.last_before > o.first_at
    UNION ALL
    SELECT 'I6', e.workflow_id, format('%s workers recorded at epoch %s', e.workers, e.epoch)
      FROM e WHERE e.workers > 1
    UNION ALL
    SELECT 'I6', e.workflow_id, format('checkpoints of epoch %s, but the run is at epoch %s', e.epoch, r.epoch)
      FROM e JOIN everstep.run r ON r.id = e.workflow_id WHERE e.epoch > r.epoch)
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I7
-- While anybody is there to sweep, nothing stays with an owner whose lease ran out, or who does not exist.
SELECT 'I7' AS invariant, r.id AS workflow_id,
       CASE WHEN k.id IS NULL THEN format('running on worker %s, of which there is no row', r.worker_id)
            ELSE format('still owned by worker %s of pod %s, whose lease ran out %s ago', k.id, k.pod,
                        date_trunc('second', everstep.clock() - k.lease_until)) END AS what
  FROM everstep.run r LEFT JOIN everstep.worker k ON k.id = r.worker_id
 WHERE r.state = 2 AND r.worker_id IS NOT NULL
   AND (k.id IS NULL OR k.lease_until < everstep.clock() - current_setting('everstep.fsck_grace')::interval)
   AND EXISTS (SELECT FROM everstep.worker s WHERE s.state < 3 AND s.lease_until > everstep.clock()
                  AND s.started_at < everstep.clock() - current_setting('everstep.fsck_grace')::interval)
 LIMIT 100;

-- name: I8
-- A message is consumed by exactly one checkpoint, one of its own destination.
SELECT 'I8' AS invariant, m.workflow_id,
       format('message %s of topic %s was consumed at %s:%s, where there is no checkpoint', m.n, m.topic,
              m.consumed_branch, m.consumed_seq) AS what
  FROM everstep.message m
 WHERE (m.consumed_branch IS NULL) <> (m.consumed_seq IS NULL)
    OR (m.consumed_seq IS NOT NULL AND NOT EXISTS (
        SELECT FROM everstep.checkpoint c WHERE c.workflow_id = m.workflow_id
           AND c.branch = m.consumed_branch AND c.seq = m.consumed_seq))
UNION ALL
SELECT 'I8', m.workflow_id, format('%s messages were consumed at %s:%s', count(*), m.consumed_branch, m.consumed_seq)
  FROM everstep.message m WHERE m.consumed_seq IS NOT NULL
 GROUP BY m.workflow_id, m.consumed_branch, m.consumed_seq HAVING count(*) > 1
 LIMIT 100;

-- name: I9
-- Limits of queues: slots are held by running runs only, each once, and never more than max_running of them, nor more
-- than partition_max_running of one partition. What ran when a limit was lowered may finish: the queue remembers the
-- limit from before until it no longer matters. Once a queue knows that all that runs on it holds slots, all does.
SELECT 'I9' AS invariant, NULL::text AS workflow_id,
       format('queue %s: %s slots are in use, at most %s are allowed', q.name, count(*), q.max_running) AS what
  FROM everstep.run r JOIN everstep.queue q ON q.name = r.queue
 WHERE r.slot IS NOT NULL GROUP BY q.name HAVING count(*) > greatest(q.max_running, q.lowered_from)
UNION ALL
SELECT 'I9', NULL, format('queue %s: %s run of partition %s, at most %s are allowed', q.name, count(*),
                          coalesce(quote_literal(r.partition), 'none'), q.partition_max_running)
  FROM everstep.run r JOIN everstep.queue q ON q.name = r.queue
 WHERE r.slot IS NOT NULL GROUP BY q.name, r.partition
HAVING count(*) > greatest(q.partition_max_running, q.partition_lowered_from)
UNION ALL
SELECT 'I9', min(r.id), format('queue %s: slot %s is held %s times', r.queue, r.slot, count(*))
  FROM everstep.run r WHERE r.slot IS NOT NULL GROUP BY r.queue, r.slot HAVING count(*) > 1
UNION ALL
SELECT 'I9', r.id, format('queue %s: slot %s is held by a run that is not running', r.queue, r.slot)
  FROM everstep.run r WHERE r.slot IS NOT NULL AND r.state <> 2
UNION ALL
SELECT 'I9', r.id, format('queue %s has a limit, but this runs without a slot', r.queue)
  FROM everstep.run r JOIN everstep.queue q ON q.name = r.queue WHERE r.state = 2 AND r.slot IS NULL AND q.slotted
UNION ALL
SELECT 'I9', r.id, format('queue %s: slot %s is beyond the limit of %s', r.queue, r.slot, q.max_running)
  FROM everstep.run r JOIN everstep.queue q ON q.name = r.queue
 WHERE r.slot > greatest(q.max_running, q.lowered_from)
 LIMIT 100;

-- name: I10
-- While anybody is there to sweep, nobody waits without a reason: no timer is long due, no awaited message lies
-- there untaken, no awaited workflow has finished, no awaited event is there or can no longer come. wait_key is one
-- key, or a JSON array of those of several branches.
WITH late AS MATERIALIZED (
    SELECT everstep.clock() - current_setting('everstep.fsck_grace')::interval AS at
     WHERE EXISTS (SELECT FROM everstep.worker s WHERE s.state < 3 AND s.lease_until > everstep.clock()
                      AND s.started_at < everstep.clock() - current_setting('everstep.fsck_grace')::interval)),
waits AS MATERIALIZED (
    SELECT r.id, k.key, split_part(k.key, ':', 1) AS kind, late.at,
           replace(replace(split_part(k.key, ':', 2), '%3A', ':'), '%25', '%') AS publisher,
           substr(k.key, 8 + length(split_part(k.key, ':', 2))) AS event
      FROM late CROSS JOIN everstep.run r
     CROSS JOIN LATERAL jsonb_array_elements_text(CASE WHEN r.wait_key LIKE '[%' THEN r.wait_key::jsonb
                                                       ELSE jsonb_build_array(r.wait_key) END) AS k(key)
     WHERE r.state = 3 AND r.epoch > 0 AND r.wait_key <> 'sleep'),
found AS MATERIALIZED (
    SELECT 'I10' AS invariant, r.id AS workflow_id,
           format('its timer was due %s ago, and it still waits', date_trunc('second', everstep.clock() - r.wake_at)) AS what
      FROM late CROSS JOIN everstep.run r WHERE r.state = 3 AND r.wake_at < late.at
    UNION ALL
    SELECT 'I10', w.id, format('waits for %s, which is there', w.key) FROM waits w
     WHERE w.kind = 'message' AND EXISTS (
           SELECT FROM everstep.message m WHERE m.workflow_id = w.id AND m.topic = substr(w.key, 9)
              AND m.consumed_seq IS NULL AND m.sent_at < w.at)
    UNION ALL
    SELECT 'I10', w.id, format('waits for %s, which has finished', w.key) FROM waits w
     WHERE w.kind = 'workflow' AND EXISTS (
           SELECT FROM everstep.workflow t WHERE t.id = substr(w.key, 10) AND t.finished_at < w.at)
    UNION ALL
    SELECT 'I10', w.id, format('waits for %s, which is there, or whose workflow has finished', w.key) FROM waits w
     WHERE w.kind = 'event' AND (
           EXISTS (SELECT FROM everstep.event e
                    WHERE e.workflow_id = w.publisher AND e.key = w.event AND e.set_at < w.at)
        OR EXISTS (SELECT FROM everstep.workflow t WHERE t.id = w.publisher AND t.finished_at < w.at)))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I11
-- One workflow per tick of a schedule: id and input say the same tick, none is there before its time, and the
-- last one is there. The last is looked for within the hour, because finished workflows do not stay for ever.
WITH t AS MATERIALIZED (
    SELECT s.name, s.next_at, w.id, split_part(w.id, ':', 3)::bigint AS tick,
           everstep.payload(w.codec, w.input) ->> s.parameter AS given
      FROM everstep.schedule s JOIN everstep.workflow w
        ON w.id >= 'sched:' || s.name || ':' AND w.id < 'sched:' || s.name || ';' AND w.name = s.workflow
     WHERE w.created_at >= current_setting('everstep.fsck_since')::timestamptz
       AND split_part(w.id, ':', 3) ~ '^-?[0-9]{1,12}$')
SELECT 'I11' AS invariant, min(t.id) AS workflow_id,
       format('schedule %s has %s workflows for tick %s', t.name, count(*), to_timestamp(t.tick)) AS what
  FROM t GROUP BY t.name, t.tick HAVING count(*) > 1
UNION ALL
SELECT 'I11', t.id, format('schedule %s: the id says tick %s, the input says %s', t.name, to_timestamp(t.tick), t.given)
  FROM t WHERE CASE WHEN t.given ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T' THEN extract(epoch FROM t.given::timestamptz) <> t.tick END
UNION ALL
SELECT 'I11', t.id, format('schedule %s: tick %s is still to come, but has a workflow', t.name, to_timestamp(t.tick))
  FROM t WHERE t.next_at > everstep.clock() AND t.tick >= extract(epoch FROM t.next_at)
UNION ALL
SELECT 'I11', NULL, format('schedule %s: its last tick, %s, has no workflow', s.name, s.last_at)
  FROM everstep.schedule s
 WHERE s.last_at > everstep.clock() - interval '1 hour' AND NOT EXISTS (
       SELECT FROM everstep.workflow w WHERE w.id = 'sched:' || s.name || ':' || extract(epoch FROM s.last_at)::bigint)
 LIMIT 100;

-- name: I12
-- A child is there exactly if its parent has recorded its start: both are one statement. A parent that began anew
-- under its id keeps its children, but not the log; so a child is held only against a log that reaches back to it.
WITH children AS MATERIALIZED (
    SELECT w.id, w.parent_id, w.created_at FROM everstep.workflow w
     WHERE w.parent_id IS NOT NULL
       AND w.id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT f.id FROM everstep.workflow f
                     WHERE f.finished_at >= current_setting('everstep.fsck_since')::timestamptz)),
started AS MATERIALIZED (
    SELECT c.workflow_id, c.branch, c.seq, everstep.payload(c.codec, c.output) ->> 'id' AS child
      FROM everstep.checkpoint c
     WHERE c.kind = 8 AND c.error IS NULL
       AND c.workflow_id IN (SELECT r.id FROM everstep.run r UNION ALL SELECT w.id FROM everstep.workflow w
                              WHERE w.finished_at >= current_setting('everstep.fsck_since')::timestamptz
                              UNION ALL SELECT k.parent_id FROM children k)),
strangers AS MATERIALIZED (
    SELECT k.id, k.parent_id, k.created_at FROM children k
     WHERE NOT EXISTS (SELECT FROM started s WHERE s.workflow_id = k.parent_id AND s.child = k.id)),
found AS MATERIALIZED (
    SELECT 'I12' AS invariant, s.workflow_id,
           format('child %s was started at %s:%s, but does not exist', coalesce(quote_literal(s.child), 'without id'),
                  s.branch, s.seq) AS what
      FROM started s WHERE NOT EXISTS (SELECT FROM everstep.workflow w WHERE w.id = s.child)
    UNION ALL
    SELECT 'I12', k.id, format('child of %s, whose log does not know it', quote_literal(k.parent_id))
      FROM strangers k
     WHERE EXISTS (SELECT FROM everstep.checkpoint c
                    WHERE c.workflow_id = k.parent_id AND c.recorded_at <= k.created_at))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I13
-- Positions of a branch are 1, 2, 3 … without gaps, in workflows that succeeded. A gap is a lost checkpoint,
-- unless the code gave up a step it had called (wait_for, a cancelled task): then it is nothing.
WITH found AS MATERIALIZED (
    SELECT 'I13' AS invariant, c.workflow_id,
           format('branch %s: %s checkpoints, positions %s to %s', quote_literal(c.branch), count(*),
                  min(c.seq), max(c.seq)) AS what
      FROM everstep.checkpoint c JOIN everstep.workflow w ON w.id = c.workflow_id
     WHERE w.status = 1 AND w.finished_at >= current_setting('everstep.fsck_since')::timestamptz
     GROUP BY c.workflow_id, c.branch HAVING min(c.seq) <> 1 OR max(c.seq) <> count(DISTINCT c.seq))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: I14
-- A workflow finished at its last epoch: nothing was recorded at a higher one, nor at that one by another worker.
WITH found AS MATERIALIZED (
    SELECT 'I14' AS invariant, w.id AS workflow_id,
           format('finished at epoch %s by worker %s, but position %s:%s is of epoch %s, worker %s',
                  w.finished_epoch, w.finished_by, c.branch, c.seq, c.epoch, c.worker_id) AS what
      FROM everstep.workflow w JOIN everstep.checkpoint c ON c.workflow_id = w.id
     WHERE w.status <> 0 AND w.finished_at >= current_setting('everstep.fsck_since')::timestamptz
       AND (c.epoch > w.finished_epoch OR (c.epoch = w.finished_epoch AND c.worker_id <> w.finished_by)))
SELECT invariant, workflow_id, what FROM found LIMIT 100;

-- name: end
COMMIT;
