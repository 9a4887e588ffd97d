-- A worker's own row, its lease, tickets and versions.

-- name: register
-- Repeated after a lost reply, it is the same registration.
WITH v AS (
    INSERT INTO everstep.version (version, created_at) VALUES (%(version)s, everstep.clock())
    ON CONFLICT DO NOTHING)
INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until)
VALUES (%(me)s, %(pod)s, %(version)s, 1, %(slots)s, everstep.clock(), everstep.clock() + make_interval(secs => %(ttl)s))
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
RETURNING everstep.clock() AS at;

-- name: adopt_routing
-- Where nobody routes versions (no operator, no version given), the code that runs is the current version.
SELECT everstep.set_routing(%(version)s, NULL, 0, 0) FROM everstep.routing t WHERE t.current IS NULL AND t.revision = 0;

-- name: routing
SELECT current, ramping, percent, revision FROM everstep.routing;

-- name: beat
-- Renew my lease; learn what to cancel, and how everybody else's leases stand. No row: I was declared dead.
UPDATE everstep.worker k SET lease_until = everstep.clock() + make_interval(secs => %(ttl)s)
 WHERE k.id = %(me)s AND k.state < 3
RETURNING everstep.clock() AS at,
          ARRAY(SELECT r.id FROM everstep.run r WHERE r.worker_id = %(me)s AND r.state = 2 AND r.cancel) AS cancels;

-- name: leases
SELECT id, lease_until, lease_until < everstep.clock() AS expired FROM everstep.worker WHERE state < 3;

-- name: set_state
UPDATE everstep.worker SET state = %(state)s WHERE id = %(me)s AND state < %(state)s;

-- name: declare_dead
-- Of the workers I have seen silent long enough, those whose lease has run out by the database's clock.
WITH x AS MATERIALIZED (
    SELECT id FROM everstep.worker
     WHERE id = ANY (%(suspects)s::uuid[]) AND state < 3 AND lease_until < everstep.clock()
     ORDER BY id LIMIT 4 FOR UPDATE SKIP LOCKED)
UPDATE everstep.worker k SET state = 3 FROM x WHERE k.id = x.id RETURNING k.id, k.pod;

-- name: take_ticket
-- Whose turn it is: the first to ask once it is due. Nobody is special.
UPDATE everstep.ticket SET holder = %(me)s, next_at = everstep.clock() + make_interval(secs => %(every)s)
 WHERE task = %(task)s AND next_at <= everstep.clock() RETURNING task;

-- name: hold_ticket
-- A ticket that stays with its holder while it keeps renewing: the metrics.
UPDATE everstep.ticket SET holder = %(me)s, next_at = everstep.clock() + make_interval(secs => %(ttl)s)
 WHERE task = %(task)s AND (holder = %(me)s OR next_at <= everstep.clock()) RETURNING task;

-- name: drop_ticket
UPDATE everstep.ticket SET holder = NULL, next_at = '-infinity' WHERE holder = %(me)s;

-- name: forget_workers
-- Rows of long-dead workers that own nothing.
DELETE FROM everstep.worker k
 WHERE k.state = 3 AND k.lease_until < everstep.clock() - interval '1 day'
   AND (SELECT true FROM everstep.run r WHERE r.worker_id = k.id AND r.state = 2 LIMIT 1) IS NULL;
