-- What `everstep doctor` asks, beside the invariants of fsck.sql. Reads only; open work, and the server's own views.

-- name: doctor_server
SELECT pg_is_in_recovery() AS in_recovery, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_user AS role;

-- name: doctor_migrations
-- Files that began outside a transaction and never said that they were done.
SELECT origin, file, started_at FROM everstep.migration WHERE state = 'started' ORDER BY origin, number;

-- name: doctor_orphans
-- Workers whose lease ran out, and what they still own: beyond the grace only if nobody is there to sweep.
SELECT r.worker_id, k.pod, count(*) AS runs, min(r.id) AS sample
  FROM everstep.run r LEFT JOIN everstep.worker k ON k.id = r.worker_id
 WHERE r.state = 2
   AND (k.id IS NULL OR k.lease_until < everstep.clock() - make_interval(secs => %(grace)s))
 GROUP BY r.worker_id, k.pod ORDER BY count(*) DESC LIMIT 20;

-- name: doctor_stranded
-- Open workflows by the version that may run them, where no live worker has that version. Those that have not
-- begun go where the routing says; a null version means that it says nothing.
WITH t AS MATERIALIZED (SELECT current, ramping, percent FROM everstep.routing),
o AS (
    SELECT coalesce(r.version, CASE WHEN (hashtext(r.id) & 2147483647) %% 100 < t.percent THEN t.ramping
                                    ELSE t.current END) AS version,
           r.version IS NOT NULL AS begun, r.id
      FROM everstep.run r, t WHERE r.state <> 2)
SELECT o.version, o.begun, count(*) AS runs, min(o.id) AS sample
  FROM o
 WHERE NOT EXISTS (SELECT FROM everstep.worker k WHERE k.version = o.version AND k.state = 1
                      AND k.lease_until > everstep.clock())
 GROUP BY o.version, o.begun ORDER BY count(*) DESC LIMIT 20;

-- name: doctor_unclaimed
-- Ready for long although live workers of the version have room: nobody knows the name, or listens to the queue.
WITH t AS MATERIALIZED (SELECT current FROM everstep.routing),
k AS MATERIALIZED (
    SELECT w.version, sum(w.slots) AS slots,
           (SELECT count(*) FROM everstep.run r JOIN everstep.worker x ON x.id = r.worker_id
             WHERE r.state = 2 AND x.version = w.version) AS used
      FROM everstep.worker w WHERE w.state = 1 AND w.lease_until > everstep.clock() GROUP BY w.version)
SELECT r.queue, r.name, coalesce(r.version, t.current) AS version, count(*) AS runs, min(r.id) AS sample,
       min(r.ready_at) AS since
  FROM everstep.run r CROSS JOIN t
  JOIN k ON k.version = coalesce(r.version, t.current) AND k.used < k.slots / 2
 WHERE r.state = 1 AND r.crashes < 3
   AND r.ready_at < everstep.clock() - make_interval(secs => %(patience)s)
   AND NOT EXISTS (SELECT FROM everstep.queue q WHERE q.name = r.queue AND q.paused)
 GROUP BY r.queue, r.name, coalesce(r.version, t.current) ORDER BY min(r.ready_at) LIMIT 20;

-- name: doctor_paused
SELECT q.name AS queue, count(*) AS runs
  FROM everstep.queue q JOIN everstep.run r ON r.queue = q.name AND r.state = 1
 WHERE q.paused GROUP BY q.name ORDER BY q.name LIMIT 20;

-- name: doctor_horizon
-- What keeps dead rows from being cleaned away: old transactions, prepared ones, and replication slots.
SELECT format('session %%s (%%s, %%s) has had a transaction open for %%s', a.pid,
              coalesce(nullif(a.application_name, ''), 'unnamed'), coalesce(a.state, 'state hidden'),
              date_trunc('second', clock_timestamp() - a.xact_start)) AS what,
       format('SELECT pg_terminate_backend(%%s)', a.pid) AS cure
  FROM pg_stat_activity a
 WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
   AND a.xact_start < clock_timestamp() - make_interval(secs => %(horizon)s)
UNION ALL
SELECT format('prepared transaction %%L has stood since %%s', p.gid, date_trunc('second', p.prepared)),
       format('ROLLBACK PREPARED %%L', p.gid)
  FROM pg_prepared_xacts p
 WHERE p.database = current_database() AND p.prepared < clock_timestamp() - make_interval(secs => %(horizon)s)
UNION ALL
SELECT format('replication slot %%s is not used and pins the horizon', s.slot_name),
       format('SELECT pg_drop_replication_slot(%%L)', s.slot_name)
  FROM pg_replication_slots s WHERE NOT s.active AND s.xmin IS NOT NULL
 LIMIT 20;
