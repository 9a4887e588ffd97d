-- For everstep.testing, in databases made for tests: a clock that can be moved, and when it may be.

-- name: fake_clock
-- Replaces the engine's clock by one that can go ahead of the server's. A row and no setting: a jump is seen by all
-- sessions, and by none in the middle of a statement.
CREATE TABLE IF NOT EXISTS everstep.fake_clock (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    ahead interval NOT NULL DEFAULT interval '0'
);
INSERT INTO everstep.fake_clock DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION everstep.clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT statement_timestamp() + ahead FROM everstep.fake_clock';

-- name: advance_clock
-- The leases of workers go along, and so does what is kept by renewing: nobody looks dead for having lost time that
-- did not pass. Seconds, because an hour is not always an hour where a day is a day.
WITH c AS (
    UPDATE everstep.fake_clock SET ahead = ahead + make_interval(secs => %(seconds)s) RETURNING ahead),
k AS (
    UPDATE everstep.worker SET lease_until = lease_until + make_interval(secs => %(seconds)s) WHERE state < 3),
t AS (
    UPDATE everstep.ticket SET next_at = next_at + make_interval(secs => %(seconds)s) WHERE task = 'metrics')
SELECT statement_timestamp() + c.ahead AS at FROM c;

-- name: clock_now
SELECT everstep.clock() AS at;

-- name: busy
-- What goes on without the clock being moved: running, or claimable by a live worker, or due. `names` and `queues`
-- are those the workers know; what is on a paused queue, or waits for the rate of one, stands still.
WITH l AS MATERIALIZED (SELECT DISTINCT k.version FROM everstep.worker k WHERE k.state = 1)
SELECT r.id, CASE WHEN r.state = 2 THEN 'is running' WHEN r.state = 1 THEN 'is queued' ELSE 'is due' END AS why
  FROM everstep.run r
 WHERE r.state = 2
    OR EXISTS (SELECT FROM l) AND (r.deadline <= everstep.clock() OR r.state = 3 AND r.wake_at <= everstep.clock())
    OR r.state = 1 AND r.name = ANY (%(names)s::text[]) AND r.queue = ANY (%(queues)s::text[])
   AND EXISTS (SELECT FROM l WHERE r.version IS NULL OR l.version = r.version)
   AND NOT EXISTS (
       SELECT FROM everstep.queue q LEFT JOIN everstep.queue_partition p
              ON p.queue = q.name AND p.partition = r.partition AND q.partition_rate IS NOT NULL
        WHERE q.name = r.queue
          AND (q.paused OR q.tat > everstep.clock() + (q.burst - 1) * q.rate_per / q.rate
               OR p.tat > everstep.clock() + (q.partition_burst - 1) * q.partition_rate_per / q.partition_rate))
UNION ALL
SELECT s.name, 'is a schedule with a tick that is due' FROM everstep.schedule s
 WHERE NOT s.paused AND s.removed_at IS NULL AND s.next_at <= everstep.clock() AND EXISTS (SELECT FROM l)
 ORDER BY 1 LIMIT 10;

-- name: pulse
-- Changes with every claim, wake, park, start and end.
SELECT coalesce(sum(hashtextextended(r.id || ' ' || r.epoch || ' ' || r.signals || ' ' || r.state, 0)), 0) AS pulse
  FROM everstep.run r;

-- name: next_timer
-- When something will happen by itself: a sleep or a timeout ends, a deadline passes, a schedule ticks, a rate lets
-- the next workflow begin. What has become due this very moment counts, or it would hide what comes after it.
SELECT min(t.at) AS at FROM (
    SELECT min(r.wake_at) AS at FROM everstep.run r WHERE r.state = 3
    UNION ALL
    SELECT min(r.deadline) FROM everstep.run r WHERE NOT (r.state = 2 AND r.cancel)
    UNION ALL
    SELECT min(s.next_at) FROM everstep.schedule s WHERE NOT s.paused AND s.removed_at IS NULL
    UNION ALL
    SELECT min(o.at) FROM everstep.queue q CROSS JOIN LATERAL (
        SELECT q.tat - (q.burst - 1) * q.rate_per / q.rate AS at WHERE q.rate IS NOT NULL
         UNION ALL
        SELECT p.tat - (q.partition_burst - 1) * q.partition_rate_per / q.partition_rate
          FROM everstep.queue_partition p
         WHERE p.queue = q.name AND q.partition_rate IS NOT NULL
           AND EXISTS (SELECT FROM everstep.run r
                        WHERE r.queue = q.name AND r.partition = p.partition AND r.state = 1)) o
     WHERE NOT q.paused AND o.at > everstep.clock()
       AND EXISTS (SELECT FROM everstep.run r WHERE r.queue = q.name AND r.state = 1)) t;

-- name: standing
SELECT r.epoch, CASE WHEN r.state = 3 THEN r.wait_key END AS wait_key,
       num_nonnulls(r.wake_at, r.deadline) > 0 AS timed
  FROM everstep.run r WHERE r.id = %(id)s;

-- name: bury_worker
-- A worker that a test has killed: dead at once, without waiting for its lease, and the next sweep is due.
WITH k AS (UPDATE everstep.worker SET state = 3 WHERE id = %(id)s)
UPDATE everstep.ticket SET next_at = '-infinity' WHERE task = 'sweep' OR holder = %(id)s;
