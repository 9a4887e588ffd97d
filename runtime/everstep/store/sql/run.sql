-- Transitions made by workers. One statement is one transaction is one transition (docs/internals/).

-- name: lanes
-- Where there is something to claim: queues of mine that are not paused, and the oldest of each priority. A row without
-- a priority stands for workflows with a partition. `limited`: workers have to agree on what they claim.
-- No EXISTS: the planner may answer it by reading all suspects once, which on a table without statistics is all there is.
SELECT q.name AS queue, l.priority, o.ready_at AS oldest, o.suspects, NOT q.open AS limited, q.worker_concurrency
  FROM unnest(%(queues)s::text[], %(priorities)s::smallint[], %(cursors)s::timestamptz[]) AS l(queue, priority, cursor)
  JOIN everstep.queue q ON q.name = l.queue AND NOT q.paused
 CROSS JOIN LATERAL (
    SELECT (SELECT r.ready_at FROM everstep.run r
             WHERE r.queue = q.name AND r.priority = l.priority AND r.state = 1 AND r.partition IS NULL
               AND r.ready_at >= coalesce(l.cursor, '-infinity') AND r.ready_at <= everstep.clock()
             ORDER BY r.ready_at LIMIT 1) AS ready_at,
           (SELECT true FROM everstep.run r WHERE r.crashes >= 3 AND r.state = 1 AND r.partition IS NULL
               AND r.queue = q.name AND r.priority = l.priority LIMIT 1) IS NOT NULL AS suspects) o
 WHERE l.priority IS NOT NULL AND (o.ready_at IS NOT NULL OR o.suspects)
UNION ALL
SELECT q.name, NULL, o.ready_at,
       (SELECT true FROM everstep.run r WHERE r.crashes >= 3 AND r.state = 1 AND r.partition IS NOT NULL
           AND r.queue = q.name LIMIT 1) IS NOT NULL,
       true, q.worker_concurrency
  FROM everstep.queue q CROSS JOIN LATERAL (
    SELECT r.ready_at FROM everstep.run r
     WHERE r.queue = q.name AND r.state = 1 AND r.partition IS NOT NULL LIMIT 1) o
 WHERE q.name = ANY (%(queues)s::text[]) AND NOT q.paused;

-- name: claim
-- MATERIALIZED: a sub-select with LIMIT .. SKIP LOCKED can run twice in one plan and claim too much.
-- The lower bound on ready_at keeps the scan off index entries that a pinned horizon keeps alive; the upper one stops
-- where another lane of the queue comes first. Nothing of a queue that was paused or limited since it was looked at.
-- A run that crashed its worker three times without progress is a suspect: claimed alone, by a worker with nothing
-- else to lose, so that it takes nobody with it.
WITH t AS MATERIALIZED (
    SELECT current, ramping, percent FROM everstep.routing
     WHERE NOT EXISTS (SELECT FROM everstep.queue q WHERE q.name = %(queue)s AND NOT q.open)),
c AS MATERIALIZED (
    SELECT r.id FROM everstep.run r, t
     WHERE r.queue = %(queue)s AND r.priority = %(priority)s AND r.state = 1 AND r.partition IS NULL
       AND r.ready_at >= %(cursor)s AND r.ready_at <= least(everstep.clock(), %(until)s)
       AND r.name = ANY (%(names)s::text[])
       AND (r.version = %(version)s OR r.version IS NULL AND %(version)s =
            CASE WHEN (hashtext(r.id) & 2147483647) %% 100 < t.percent THEN t.ramping ELSE t.current END)
       AND (r.crashes >= 3) = %(suspect)s
     ORDER BY r.ready_at LIMIT %(limit)s FOR UPDATE OF r SKIP LOCKED),
u AS (
    UPDATE everstep.run r SET state = 2, worker_id = k.id, version = %(version)s, epoch = r.epoch + 1
      FROM everstep.worker k
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) AND k.id = %(me)s AND k.state = 1
    RETURNING r.id, r.name, r.epoch, r.ready_at, r.crashes, r.cancel, r.deadline,
              greatest(extract(epoch FROM everstep.clock() - r.ready_at)::float8, 0) AS waited),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 2, %(queue)s, '', 0, everstep.bucket(waited), count(*), sum(waited) FROM u
     GROUP BY everstep.bucket(waited))
SELECT u.id, u.name, u.epoch, u.ready_at, u.crashes, w.codec, w.input, u.cancel, u.deadline,
       %(queue)s::text AS queue
  FROM u CROSS JOIN LATERAL (SELECT w.codec, w.input FROM everstep.workflow w WHERE w.id = u.id OFFSET 0) w;

-- name: load
-- The logs of claimed workflows that ran before, each of its own generation only. Without a row: it is not open any
-- more. OFFSET keeps the planner from reading the whole table of checkpoints once.
SELECT r.id AS workflow_id, c.branch, c.seq, c.kind, c.name, c.attempts, c.codec, c.output, c.error, c.recorded_at
  FROM everstep.run r
  LEFT JOIN LATERAL (
    SELECT * FROM everstep.checkpoint c
     WHERE c.workflow_id = r.id AND c.branch >= everstep.branches_from(r.generation)
       AND c.branch < everstep.branches_to(r.generation) OFFSET 0) c ON true
 WHERE r.id = ANY (%(ids)s::text[]);

-- name: commit
-- The only writer of checkpoints, completions and parks. f is the fence: it locks each run of this batch that
-- is still mine, so that no takeover can pass between the check and the write. A row that somebody else holds
-- locked is skipped and retried alone (commit_waiting), so one busy run cannot stall the batch. What stands between
-- `if` and `end` is left out of a commit without such rows: opening five tables for nothing costs half a millisecond.
WITH c AS MATERIALIZED (
    SELECT * FROM unnest(%(c_id)s::text[], %(c_epoch)s::int[], %(c_branch)s::text[], %(c_seq)s::int[],
                         %(c_kind)s::smallint[], %(c_name)s::text[], %(c_attempts)s::smallint[],
                         %(c_codec)s::smallint[], %(c_output)s::bytea[], %(c_error)s::bytea[], %(c_seconds)s::real[],
                         %(c_target)s::text[], %(c_message)s::bigint[])
-- if messages
                  WITH ORDINALITY
-- end
                  AS t(id, epoch, branch, seq, kind, name, attempts, codec, output, error, seconds, target, message)),
-- if starts
s AS MATERIALIZED (
    SELECT * FROM unnest(%(s_parent)s::text[], %(s_epoch)s::int[], %(s_id)s::text[], %(s_name)s::text[],
                         %(s_queue)s::text[], %(s_priority)s::smallint[], %(s_codec)s::smallint[],
                         %(s_input)s::bytea[], %(s_attributes)s::jsonb[], %(s_delay)s::float8[],
                         %(s_run_at)s::timestamptz[], %(s_timeout)s::float8[], %(s_deadline)s::timestamptz[],
                         %(s_version)s::text[], %(s_partition)s::text[])
                  AS t(parent, epoch, id, name, queue, priority, codec, input, attributes, delay, run_at, timeout,
                       deadline, version, partition)),
-- end
d AS MATERIALIZED (
    SELECT * FROM unnest(%(d_id)s::text[], %(d_epoch)s::int[], %(d_status)s::smallint[],
                         %(d_output)s::bytea[], %(d_error)s::bytea[])
                  AS t(id, epoch, status, output, error)),
-- if parks
p AS MATERIALIZED (
    SELECT * FROM unnest(%(p_id)s::text[], %(p_epoch)s::int[], %(p_wake_at)s::timestamptz[], %(p_key)s::text[],
                         %(p_signals)s::int[], %(p_generation)s::int[])
                  AS t(id, epoch, wake_at, wait_key, signals, generation)),
-- end
f AS MATERIALIZED (
    SELECT r.id, r.epoch, r.cancel, r.version, r.signals, r.waiters FROM everstep.run r
     WHERE r.id = ANY (%(ids)s::text[]) AND r.worker_id = %(me)s
     ORDER BY r.id COLLATE "POSIX" FOR NO KEY UPDATE SKIP LOCKED),
-- Full joins, because the planner takes f for one row: it would nest loops over the batch, n times n.
fc AS MATERIALIZED (
    SELECT c.*, f.id AS mine, f.waiters, f.cancel FROM f FULL JOIN c ON c.id = f.id AND c.epoch = f.epoch),
fd AS MATERIALIZED (
    SELECT d.*, f.id AS mine, f.version FROM f FULL JOIN d ON d.id = f.id AND d.epoch = f.epoch),
-- if parks
fp AS MATERIALIZED (
    SELECT p.*, f.id AS mine, f.cancel, f.signals AS now_signals
      FROM f FULL JOIN p ON p.id = f.id AND p.epoch = f.epoch),
-- end
-- if starts
fs AS MATERIALIZED (
    SELECT s.*, f.id AS mine FROM f FULL JOIN s ON s.parent = f.id AND s.epoch = f.epoch),
-- end
n AS (
    INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec,
                                     output, error, seconds, recorded_at)
    SELECT id, branch, seq, kind, name, %(me)s, epoch, attempts, codec, output, error, seconds, everstep.clock()
      FROM fc WHERE id IS NOT NULL AND mine IS NOT NULL AND NOT (kind = 14 AND cancel)
    ON CONFLICT (workflow_id, branch, seq) DO NOTHING RETURNING workflow_id, branch, seq),
-- if messages
-- What a checkpoint does besides being one: take a message, send one, publish an event, start a child. A
-- message is only put down here; waking its receiver would lock another workflow's run, and two workers doing
-- that to each other's would deadlock. The reply names whom to wake.
-- In the order in which they were said (c's ordinality): that of their places is another one, where tasks speak.
taken AS (
    UPDATE everstep.message m SET consumed_branch = fc.branch, consumed_seq = fc.seq
      FROM fc WHERE fc.message IS NOT NULL AND fc.mine IS NOT NULL
       AND m.workflow_id = ANY (ARRAY[fc.id]) AND m.topic = fc.name AND m.n = fc.message),
sent AS (
    INSERT INTO everstep.message (workflow_id, topic, idempotency, codec, body, sent_at)
    SELECT fc.target, fc.name, fc.id || ':' || fc.branch || ':' || fc.seq, fc.codec, fc.output, everstep.clock()
      FROM fc JOIN everstep.workflow w ON w.id = ANY (ARRAY[fc.target]) AND w.status = 0
     WHERE fc.kind = 5 AND fc.mine IS NOT NULL ORDER BY fc.ordinality
    ON CONFLICT (workflow_id, idempotency) WHERE idempotency IS NOT NULL DO NOTHING),
published AS (
    INSERT INTO everstep.event (workflow_id, key, codec, body, set_at)
    SELECT DISTINCT ON (id, name) id, name, codec, output, everstep.clock() FROM fc
     WHERE kind = 6 AND mine IS NOT NULL ORDER BY id, name, ordinality DESC
    ON CONFLICT (workflow_id, key) DO UPDATE SET codec = excluded.codec, body = excluded.body, set_at = excluded.set_at),
written AS (
    INSERT INTO everstep.stream (workflow_id, key, branch, seq, codec, body, written_at)
    SELECT id, name, branch, seq, codec, CASE WHEN target IS NULL THEN output END, everstep.clock() FROM fc
     WHERE kind = 13 AND mine IS NOT NULL ORDER BY ordinality
    ON CONFLICT (workflow_id, branch, seq) DO NOTHING),
-- end
-- if starts
cw AS (
    INSERT INTO everstep.workflow (id, name, queue, parent_id, attributes, codec, input, created_at)
    SELECT id, name, queue, parent, attributes, codec, input, everstep.clock() FROM fs
     WHERE id IS NOT NULL AND mine IS NOT NULL
    ON CONFLICT (id) DO NOTHING RETURNING id),
cr AS (
    INSERT INTO everstep.run (id, name, version, queue, partition, priority, state, ready_at, wake_at, deadline, waiters)
    SELECT fs.id, fs.name, fs.version, fs.queue, fs.partition, fs.priority,
           CASE WHEN fs.delay > 0 OR fs.run_at > everstep.clock() THEN 3 ELSE 1 END, everstep.clock(),
           CASE WHEN fs.run_at > everstep.clock() THEN fs.run_at
                WHEN fs.delay > 0 THEN everstep.clock() + make_interval(secs => fs.delay) END,
           least(fs.deadline, CASE WHEN fs.timeout < 1e10 THEN everstep.clock() + make_interval(secs => fs.timeout) END),
           ARRAY[fs.parent]
      FROM cw JOIN fs ON fs.id = cw.id),
-- end
x AS (
    DELETE FROM everstep.run r USING fd WHERE r.id = ANY (ARRAY[fd.id]) AND fd.mine IS NOT NULL
    RETURNING r.id, r.waiters, fd.epoch, fd.version, fd.status, fd.output, fd.error),
w AS (
    UPDATE everstep.workflow w SET status = x.status, version = x.version, output = x.output, error = x.error,
           finished_at = everstep.clock(), finished_by = %(me)s, finished_epoch = x.epoch
      FROM x WHERE w.id = ANY (ARRAY[x.id])
    RETURNING w.id, w.queue, w.name, w.status, extract(epoch FROM everstep.clock() - w.created_at)::float8 AS seconds),
-- if parks
-- A park with a generation hands the workflow over to it: claimable at once, by whatever version is current.
-- Whoever gets as far as parking crashes nobody: its crashes are forgotten.
y AS (
    UPDATE everstep.run r SET state = CASE WHEN fp.generation > 0 THEN 1 ELSE 3 END, worker_id = NULL, slot = NULL,
           epoch = r.epoch + 1, wake_at = fp.wake_at, wait_key = fp.wait_key,
           generation = CASE WHEN fp.generation > 0 THEN fp.generation ELSE r.generation END,
           version = CASE WHEN fp.generation > 0 THEN NULL ELSE r.version END,
           ready_at = CASE WHEN fp.generation > 0 THEN everstep.clock() ELSE r.ready_at END,
           crashes = 0,
           progress = CASE WHEN fp.generation > 0 THEN 0 ELSE r.progress END
      FROM fp WHERE r.id = ANY (ARRAY[fp.id]) AND fp.mine IS NOT NULL AND NOT fp.cancel
       AND (fp.signals < 0 OR fp.signals = fp.now_signals) RETURNING r.id),
-- end
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 3, queue, name, status, everstep.bucket(seconds), count(*), sum(seconds) FROM w
     GROUP BY queue, name, status, everstep.bucket(seconds)
-- if starts
    UNION ALL
    SELECT 1, queue, name, 0, 0, count(*), 0 FROM cw JOIN fs USING (id) GROUP BY queue, name
-- end
)
SELECT everstep.clock() AS at,
       ARRAY(SELECT DISTINCT fc.id FROM fc
              WHERE fc.id IS NOT NULL AND fc.cancel AND NOT EXISTS (SELECT FROM x WHERE x.id = fc.id)
-- if parks
             UNION SELECT fp.id FROM fp WHERE fp.id IS NOT NULL AND fp.cancel
-- end
       ) AS cancels,
-- if starts
       EXISTS (SELECT FROM cw) AS children,
-- end
-- if parks
       ARRAY(SELECT fp.id FROM fp WHERE fp.mine IS NOT NULL AND fp.signals >= 0 AND fp.signals <> fp.now_signals) AS stirred,
-- end
       ARRAY(SELECT DISTINCT unnest(x.waiters) FROM x
-- if messages
             UNION SELECT fc.target FROM fc WHERE fc.kind = 5 AND fc.mine IS NOT NULL
             UNION SELECT unnest(fc.waiters) FROM fc WHERE fc.kind = 6 AND fc.mine IS NOT NULL
-- end
       ) AS wakes,
       ARRAY(SELECT c.id FROM c WHERE NOT EXISTS (
                 SELECT FROM n WHERE n.workflow_id = c.id AND n.branch = c.branch AND n.seq = c.seq)
-- if parks
                 AND NOT (c.kind = 14 AND EXISTS (SELECT FROM fp WHERE fp.id = c.id AND fp.cancel))
             UNION SELECT p.id FROM p WHERE NOT EXISTS (SELECT FROM y WHERE y.id = p.id)
                 AND NOT EXISTS (SELECT FROM fp WHERE fp.id = p.id AND (fp.cancel OR fp.signals >= 0 AND fp.signals <> fp.now_signals))
-- end
             UNION SELECT d.id FROM d WHERE NOT EXISTS (SELECT FROM w WHERE w.id = d.id)
       ) AS leftovers;

-- name: verdict
-- What became of rows the commit did not take: am I still the owner, was it I who finished it (a reply was
-- lost), and which of my checkpoints are there already, written by me or by somebody else?
SELECT t.id, t.epoch,
       (SELECT true FROM everstep.run r
         WHERE r.id = t.id AND r.worker_id = %(me)s AND r.epoch = t.epoch LIMIT 1) IS NOT NULL AS owner,
       (SELECT true FROM everstep.workflow w WHERE w.id = t.id AND w.finished_by = %(me)s
           AND w.finished_epoch = t.epoch LIMIT 1) IS NOT NULL AS finished,
       ARRAY(SELECT c.branch || ':' || c.seq FROM everstep.checkpoint c
              WHERE c.workflow_id = t.id AND c.worker_id = %(me)s AND c.epoch = t.epoch) AS mine
  FROM unnest(%(ids)s::text[], %(epochs)s::int[]) AS t(id, epoch);

-- name: release
-- Give back what I hold: no crash is counted, the next owner may claim at once. Those that ended this process are
-- left to a rescue, which counts.
WITH c AS MATERIALIZED (
    SELECT r.id FROM everstep.run r WHERE r.worker_id = %(me)s AND r.state = 2 AND r.id <> ALL (%(crashed)s::text[])
     ORDER BY r.id COLLATE "POSIX" FOR UPDATE),
u AS (
    UPDATE everstep.run r SET state = 1, worker_id = NULL, slot = NULL, epoch = r.epoch + 1,
           ready_at = everstep.clock()
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) RETURNING r.id)
SELECT count(*) AS released FROM u;

-- name: rescue
-- Level-triggered: any running run whose owner is not live, whatever made it so. Progress since the last
-- crash resets the crash counter; without progress it counts up to the dead letter.
-- The owners come first, by themselves: a run that another sweep freed and a live worker claimed since this snapshot
-- is met as it is now, and then its new owner is looked at anew, which an anti-join would not do.
WITH g AS MATERIALIZED (
    SELECT o.worker_id FROM (SELECT DISTINCT r.worker_id FROM everstep.run r WHERE r.state = 2) o
     WHERE (SELECT true FROM everstep.worker k WHERE k.id = o.worker_id AND k.state < 3 LIMIT 1) IS NULL),
c AS MATERIALIZED (
    SELECT r.id, r.generation, r.version, r.epoch, r.crashes, r.progress FROM everstep.run r
     WHERE r.state = 2 AND r.worker_id = ANY (ARRAY(SELECT worker_id FROM g))
     LIMIT 500 FOR UPDATE OF r SKIP LOCKED),
s AS MATERIALIZED (
    SELECT c.id, (SELECT count(*) FROM everstep.checkpoint k
                   WHERE k.workflow_id = c.id AND k.branch >= everstep.branches_from(c.generation)
                     AND k.branch < everstep.branches_to(c.generation))::int AS progress FROM c),
x AS MATERIALIZED (
    SELECT r.id, r.version, r.epoch + 1 AS epoch, s.progress,
           CASE WHEN s.progress > r.progress THEN 1 ELSE r.crashes + 1 END AS crashes
      FROM s JOIN c AS r ON r.id = s.id),
-- What has crashed too often is given up here and now: freed, it would be claimed once more. Where somebody holds
-- its cold row locked, it alone waits for a later sweep.
h AS MATERIALIZED (
    SELECT w.id FROM everstep.workflow w
     WHERE w.id = ANY (ARRAY(SELECT x.id FROM x WHERE x.crashes > %(max_crashes)s))
     ORDER BY w.id COLLATE "POSIX" FOR NO KEY UPDATE SKIP LOCKED),
u AS (
    UPDATE everstep.run r SET state = 1, worker_id = NULL, slot = NULL, epoch = r.epoch + 1,
           ready_at = everstep.clock(), progress = x.progress, crashes = least(x.crashes, 32767)
      FROM x WHERE r.id = ANY (ARRAY[x.id]) AND x.crashes <= %(max_crashes)s RETURNING r.id, r.queue, r.name),
d AS (
    DELETE FROM everstep.run r USING h WHERE r.id = ANY (ARRAY[h.id]) RETURNING r.id, r.queue, r.name),
w AS (
    UPDATE everstep.workflow w SET status = 4, version = x.version, finished_at = everstep.clock(),
           finished_epoch = x.epoch, error = %(error)s
      FROM x JOIN d ON d.id = x.id WHERE w.id = ANY (ARRAY[d.id])
    RETURNING w.queue, w.name, extract(epoch FROM everstep.clock() - w.created_at)::float8 AS seconds),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 4, queue, name, 0, 0, count(*), 0 FROM (SELECT * FROM u UNION ALL SELECT * FROM d) AS f GROUP BY queue, name
    UNION ALL
    SELECT 3, queue, name, 4, everstep.bucket(seconds), 1, seconds FROM w)
SELECT (SELECT count(*) FROM u) AS rescued, (SELECT count(*) FROM w) AS buried;

-- name: bury
-- The dead letter: too many crashes in a row without progress. A rescue gives up most by itself; these were freed
-- when more crashes were allowed.
WITH c AS MATERIALIZED (
    SELECT r.id, r.version, r.epoch FROM everstep.run r
     WHERE r.state = 1 AND r.crashes >= 3 AND r.crashes > %(max_crashes)s ORDER BY r.id COLLATE "POSIX" LIMIT 500 FOR UPDATE SKIP LOCKED),
h AS MATERIALIZED (
    SELECT w.id FROM everstep.workflow w WHERE w.id = ANY (ARRAY(SELECT c.id FROM c))
     ORDER BY w.id COLLATE "POSIX" FOR NO KEY UPDATE SKIP LOCKED),
d AS (
    DELETE FROM everstep.run r USING h WHERE r.id = ANY (ARRAY[h.id]) RETURNING r.id),
w AS (
    UPDATE everstep.workflow w SET status = 4, version = c.version, finished_at = everstep.clock(),
           finished_epoch = c.epoch, error = %(error)s
      FROM c JOIN d ON d.id = c.id WHERE w.id = ANY (ARRAY[d.id])
    RETURNING w.queue, w.name, extract(epoch FROM everstep.clock() - w.created_at)::float8 AS seconds),
m AS (
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    SELECT 3, queue, name, 4, everstep.bucket(seconds), 1, seconds FROM w)
SELECT count(*) AS buried FROM w;

-- name: any_due
SELECT FROM everstep.run r WHERE r.state = 3 AND r.wake_at <= everstep.clock() LIMIT 1;

-- name: wake_due
-- Timers that are due: sleeping workflows and delayed starts become claimable.
WITH c AS MATERIALIZED (
    SELECT r.id FROM everstep.run r
     WHERE r.state = 3 AND r.wake_at <= everstep.clock()
     ORDER BY r.wake_at LIMIT 500 FOR UPDATE SKIP LOCKED),
u AS (
    UPDATE everstep.run r SET state = 1, ready_at = everstep.clock(), wake_at = NULL, wait_key = NULL
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) RETURNING r.id)
SELECT count(*) AS woken FROM u;

-- name: cancelled
-- Of some workflows that I run, those to be stopped.
SELECT r.id FROM everstep.run r WHERE r.id = ANY (%(ids)s::text[]) AND r.worker_id = %(me)s AND r.cancel;

-- name: owned
-- What this worker owns in the database, to be held against what it really runs.
SELECT r.id, r.epoch FROM everstep.run r WHERE r.worker_id = %(me)s AND r.state = 2;

-- name: release_strays
-- Give back runs that this worker owns but does not run (a claim whose reply was lost).
WITH c AS MATERIALIZED (
    SELECT r.id FROM everstep.run r WHERE r.id = ANY (%(ids)s::text[]) AND r.worker_id = %(me)s AND r.state = 2
     ORDER BY r.id COLLATE "POSIX" FOR UPDATE),
u AS (
    UPDATE everstep.run r SET state = 1, worker_id = NULL, slot = NULL, epoch = r.epoch + 1,
           ready_at = everstep.clock()
     WHERE r.id = ANY (ARRAY(SELECT id FROM c)) RETURNING r.id)
SELECT count(*) AS released FROM u;
