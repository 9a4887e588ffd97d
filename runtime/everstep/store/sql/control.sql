-- What a person decides from the command line: which queues rest, which version is current.

-- name: control_queues
SELECT v.queue, v.paused, v.ready, v.delayed, v.running, v.waiting, v.oldest_ready_at, q.max_running
  FROM everstep.v1_queues v LEFT JOIN everstep.queue q ON q.name = v.queue ORDER BY v.queue;

-- name: control_pause
-- Also a queue that only has workflows, and that no worker has declared yet.
INSERT INTO everstep.queue (name, paused, created_at)
SELECT v.queue, %(paused)s, everstep.clock() FROM everstep.v1_queues v WHERE v.queue = ANY (%(names)s::text[])
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
RETURNING name;

-- name: control_versions
SELECT version, state, workers, running, queued, parked, created_at, oldest, next_wake
  FROM everstep.v1_versions ORDER BY created_at DESC, version;

-- name: control_promote
SELECT everstep.set_routing(%(version)s, NULL, 0, NULL) AS revision;
