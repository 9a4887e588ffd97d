"""Scenarios for interleavings: a workflow `w`, sometimes a child `c`, and four workers."""

from __future__ import annotations

from uuid import UUID

ALIVE = UUID("00000000-0000-0000-0000-00000000000a")
OTHER = UUID("00000000-0000-0000-0000-00000000000b")
RIVAL = UUID("00000000-0000-0000-0000-00000000000c")
DEAD = UUID("00000000-0000-0000-0000-00000000000d")

RESET = f"""
CREATE FUNCTION race.reset() RETURNS void LANGUAGE sql AS $$
    DELETE FROM everstep.run; DELETE FROM everstep.workflow; DELETE FROM everstep.checkpoint;
    DELETE FROM everstep.message; DELETE FROM everstep.event; DELETE FROM everstep.metric_delta;
    UPDATE everstep.worker SET state = CASE id WHEN '{DEAD}' THEN 3 ELSE 1 END WHERE state <> CASE id WHEN '{DEAD}' THEN 3 ELSE 1 END;
$$;
CREATE FUNCTION race.make(
    id text, state int, worker uuid DEFAULT NULL, epoch int DEFAULT 0, key text DEFAULT NULL,
    wake_at timestamptz DEFAULT NULL, waiters text[] DEFAULT NULL, crashes int DEFAULT 0
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at)
    VALUES (make.id, 'w', 'default', 1, '{{}}', now());
    INSERT INTO everstep.run (id, name, version, queue, state, ready_at, worker_id, epoch, wait_key, wake_at, waiters, crashes)
    VALUES (make.id, 'w', CASE WHEN make.epoch > 0 THEN 'v1' END, 'default', make.state, now(), make.worker, make.epoch,
            make.key, make.wake_at, make.waiters, make.crashes);
$$;
SELECT everstep.set_routing('v1', NULL, 0, NULL);
INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until)
SELECT k::uuid, right(k, 1), 'v1', 1, 1, now() - interval '1 h', now() + interval '1 h'
  FROM unnest(ARRAY['{ALIVE}', '{OTHER}', '{RIVAL}', '{DEAD}']) AS k;
"""
LISTENS = "SELECT race.make('w', 3, NULL, 2, 'message:t')"
MAIL = (
    "INSERT INTO everstep.message (workflow_id, topic, codec, body, sent_at) "
    "VALUES ('w', 't', 1, '1', now())"
)

# What is there before, and who owns what runs.
SCENARIOS: dict[str, tuple[UUID, str]] = {
    "absent": (ALIVE, ""),
    "ready": (ALIVE, "SELECT race.make('w', 1)"),
    "running": (ALIVE, f"SELECT race.make('w', 2, '{ALIVE}', 1)"),
    "orphaned": (DEAD, f"SELECT race.make('w', 2, '{DEAD}', 1)"),
    "listening": (ALIVE, LISTENS),
    "told": (ALIVE, f"SELECT race.make('w', 2, '{ALIVE}', 1); {MAIL}"),
    "forgotten": (ALIVE, f"{LISTENS}; {MAIL}"),
    "due": (ALIVE, "SELECT race.make('w', 3, NULL, 2, 'sleep', now() - interval '1 s')"),
    "awaiting": (
        ALIVE,
        (
            f"SELECT race.make('w', 3, NULL, 2, 'workflow:c'); "
            f"SELECT race.make('c', 2, '{ALIVE}', 1, waiters => '{{w}}')"
        ),
    ),
    "asking": (
        ALIVE,
        f"SELECT race.make('w', 2, '{ALIVE}', 1); SELECT race.make('c', 2, '{ALIVE}', 1)",
    ),
    "hopeless": (ALIVE, "SELECT race.make('w', 1, epoch => 9, crashes => 6)"),
    "failed": (
        ALIVE,
        (
            "SELECT race.make('w', 1); DELETE FROM everstep.run; UPDATE everstep.workflow SET status = 2, "
            f"error = '{{}}', version = 'v1', finished_at = now(), finished_by = '{ALIVE}', finished_epoch = 1"
        ),
    ),
}

# Everything a serial order decides, and nothing that only time does. Not run.progress: a rescue counts the checkpoints
# that its snapshot has, and one that came in between counts at the next crash.
DUMP = """
SELECT ARRAY(SELECT (r.id, r.state, r.worker_id, r.epoch, r.signals, r.wait_key, r.wake_at IS NULL, r.cancel, r.crashes,
                     r.version, r.waiters)::text FROM everstep.run r ORDER BY r.id) AS runs,
       ARRAY(SELECT (w.id, w.status, w.version, w.finished_by, w.finished_epoch, w.output, w.parent_id)::text
               FROM everstep.workflow w ORDER BY w.id) AS workflows,
       ARRAY(SELECT (c.workflow_id, c.branch, c.seq, c.kind, c.name, c.worker_id, c.epoch, c.output)::text
               FROM everstep.checkpoint c ORDER BY c.workflow_id, c.branch, c.seq) AS checkpoints,
       ARRAY(SELECT (m.workflow_id, m.topic, m.body, m.consumed_branch, m.consumed_seq)::text
               FROM everstep.message m ORDER BY m.workflow_id, m.n) AS messages,
       ARRAY(SELECT (e.workflow_id, e.key, e.body)::text FROM everstep.event e ORDER BY e.workflow_id, e.key) AS events,
       ARRAY(SELECT (k.id, k.state)::text FROM everstep.worker k ORDER BY k.id) AS workers,
       ARRAY(SELECT (d.kind, d.outcome, sum(d.n))::text FROM everstep.metric_delta d
              GROUP BY d.kind, d.outcome ORDER BY d.kind, d.outcome) AS counts
"""
