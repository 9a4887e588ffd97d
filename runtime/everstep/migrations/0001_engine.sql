-- The engine's tables, its contract with the operator (v1_*), and its views for people.
-- docs/internals/ explains the protocol; docs/reference/contract.md pins everything named v1_.
-- No foreign keys between hot tables: they take key-share locks, cost a lookup, and are no fence.

-- The engine's only clock. Stable and inlinable; tests replace it to move time.
CREATE FUNCTION everstep.clock() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT statement_timestamp()';

-- Index of the histogram bucket for a duration in seconds; metrics/catalogue.py holds the same bounds.
CREATE FUNCTION everstep.bucket(seconds double precision) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT width_bucket(seconds, ARRAY[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60,
                                       300, 900, 3600, 21600, 86400, 604800]::double precision[])::smallint
$$;

-- worker: one row per process start. No secondary index, so that every heartbeat is a HOT update.
CREATE TABLE everstep.worker (
    id          uuid PRIMARY KEY,
    pod         text NOT NULL,
    version     text NOT NULL,
    state       smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),  -- 1 live, 2 draining, 3 dead
    slots       integer NOT NULL,
    started_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- run: hot. Exactly the workflows that are not finished; narrow, no payload.
CREATE TABLE everstep.run (
    id        text COLLATE "C" PRIMARY KEY,
    name      text COLLATE "C" NOT NULL,
    version   text COLLATE "C",                  -- null until the first claim pins it
    queue     text COLLATE "C" NOT NULL,
    partition text COLLATE "C",
    priority  smallint NOT NULL DEFAULT 1 CHECK (priority BETWEEN 0 AND 3),
    state     smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),    -- 1 ready, 2 running, 3 waiting
    ready_at  timestamptz NOT NULL,
    wake_at   timestamptz,                       -- when waiting: the earliest timer, if any
    wait_key  text,                              -- when waiting: for what, for people and for fsck
    deadline  timestamptz,
    worker_id uuid,                              -- with epoch: the fence
    epoch     integer NOT NULL DEFAULT 0,
    slot      integer,                           -- of a limited queue; the unique index makes overshoot impossible
    crashes   smallint NOT NULL DEFAULT 0,       -- since the last progress
    progress  integer NOT NULL DEFAULT 0,        -- checkpoints seen by the last rescue
    cancel    boolean NOT NULL DEFAULT false,
    dedup     text COLLATE "C",
    CHECK ((state = 2) = (worker_id IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
        autovacuum_analyze_threshold = 5000);
CREATE INDEX run_ready ON everstep.run (queue, priority, ready_at) WHERE state = 1;
CREATE INDEX run_owned ON everstep.run (worker_id) WHERE state = 2;
CREATE INDEX run_timer ON everstep.run (wake_at) WHERE state = 3 AND wake_at IS NOT NULL;
CREATE INDEX run_deadline ON everstep.run (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX run_crashed ON everstep.run (crashes) WHERE crashes >= 3;
CREATE UNIQUE INDEX run_slot ON everstep.run (queue, slot) WHERE slot IS NOT NULL;
CREATE UNIQUE INDEX run_dedup ON everstep.run (queue, dedup) WHERE dedup IS NOT NULL;

-- workflow: cold. One insert, one terminal update; holds the payloads.
CREATE TABLE everstep.workflow (
    id             text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 512),
    name           text COLLATE "C" NOT NULL,
    version        text COLLATE "C",             -- written when it finishes; until then run.version
    queue          text COLLATE "C" NOT NULL,
    parent_id      text COLLATE "C",
    attributes     jsonb,
    status         smallint NOT NULL DEFAULT 0 CHECK (status BETWEEN 0 AND 4),
                                                 -- 0 open, 1 succeeded, 2 failed, 3 cancelled, 4 dead letter
    codec          smallint NOT NULL,
    input          bytea NOT NULL,
    output         bytea,
    error          bytea,                        -- JSON {type, message, traceback}, whatever the codec
    created_at     timestamptz NOT NULL,
    finished_at    timestamptz,
    finished_by    uuid,
    finished_epoch integer,
    CHECK ((status = 0) = (finished_at IS NULL))
) WITH (fillfactor = 80);
-- BRIN: rows arrive in time order, and from PostgreSQL 16 on these indexes do not cost an update its HOTness.
CREATE INDEX workflow_created ON everstep.workflow USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX workflow_finished ON everstep.workflow USING brin (finished_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX workflow_parent ON everstep.workflow (parent_id) WHERE parent_id IS NOT NULL;

-- checkpoint: insert only. The worker's role has no UPDATE or DELETE here.
CREATE TABLE everstep.checkpoint (
    workflow_id text COLLATE "C" NOT NULL,
    branch      text COLLATE "C" NOT NULL,       -- '' for the workflow's own task, '1', '1.2' for tasks it made
    seq         integer NOT NULL,                -- from 1, without gaps within a branch
    kind        smallint NOT NULL,               -- everstep.CheckpointKind
    name        text NOT NULL,
    worker_id   uuid NOT NULL,
    epoch       integer NOT NULL,
    attempts    smallint NOT NULL,
    codec       smallint NOT NULL,
    output      bytea,
    error       bytea,
    seconds     real NOT NULL,                   -- how long the step ran, all attempts
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (workflow_id, branch, seq)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE TABLE everstep.queue (
    name        text COLLATE "C" PRIMARY KEY,
    paused      boolean NOT NULL DEFAULT false,
    max_running integer CHECK (max_running > 0),
    created_at  timestamptz NOT NULL
);

CREATE TABLE everstep.message (
    workflow_id text COLLATE "C" NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    n           bigint GENERATED ALWAYS AS IDENTITY,
    idempotency text COLLATE "C",
    codec       smallint NOT NULL,
    body        bytea NOT NULL,
    sent_at     timestamptz NOT NULL,
    consumed_branch text COLLATE "C",
    consumed_seq    integer,
    PRIMARY KEY (workflow_id, topic, n)
);
CREATE UNIQUE INDEX message_once ON everstep.message (workflow_id, idempotency) WHERE idempotency IS NOT NULL;

-- version and routing: which code runs what. Changed by set_routing, mark_drained and retire_version only.
CREATE TABLE everstep.version (
    version        text COLLATE "C" PRIMARY KEY,
    state          text NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'ramping', 'current', 'draining', 'drained', 'retired')),
    created_at     timestamptz NOT NULL,
    current_since  timestamptz,
    draining_since timestamptz,
    drained_since  timestamptz,
    retired_at     timestamptz
);
CREATE TABLE everstep.routing (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    current    text COLLATE "C",
    ramping    text COLLATE "C",
    percent    integer NOT NULL DEFAULT 0 CHECK (percent BETWEEN 0 AND 100),
    revision   bigint NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO everstep.routing (changed_at) VALUES (everstep.clock());

-- ticket: whose turn it is to run a fleet-wide task. No leader: whoever asks when it is due has it.
CREATE TABLE everstep.ticket (
    task    text PRIMARY KEY,
    holder  uuid,
    next_at timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO everstep.ticket (task, next_at)
SELECT t, '-infinity' FROM unnest(ARRAY['sweep', 'timers', 'metrics']) AS t;

-- metric_delta is inserted by the statement that makes a transition, and folded into metric_total.
-- kind: 1 started, 2 claimed (seconds = wait), 3 finished (seconds = duration), 4 rescued.
CREATE TABLE everstep.metric_delta (
    kind    smallint NOT NULL,
    queue   text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    outcome smallint NOT NULL,
    bucket  smallint NOT NULL,
    n       bigint NOT NULL,
    seconds double precision NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE TABLE everstep.metric_total (
    kind    smallint NOT NULL,
    queue   text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    outcome smallint NOT NULL,
    bucket  smallint NOT NULL,
    n       bigint NOT NULL,
    seconds double precision NOT NULL,
    PRIMARY KEY (kind, queue, name, outcome, bucket)
) WITH (fillfactor = 50);

-- ---------------------------------------------------------------------------------------------
-- For people: stable views. Payloads appear as jsonb where the codec is JSON and the value can be.

CREATE FUNCTION everstep.payload(codec smallint, body bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF codec <> 1 OR body IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN convert_from(body, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;  -- legal JSON that jsonb cannot hold, such as a NUL in a string
END $$;

CREATE FUNCTION everstep.status_word(status smallint, state smallint, wake_at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE status WHEN 1 THEN 'succeeded' WHEN 2 THEN 'failed' WHEN 3 THEN 'cancelled'
                       WHEN 4 THEN 'dead_letter'
           ELSE CASE state WHEN 1 THEN 'queued' WHEN 2 THEN 'running' WHEN 3 THEN 'waiting' END END
$$;

CREATE VIEW everstep.workflows AS
SELECT w.id, w.name, everstep.status_word(w.status, r.state, r.wake_at) AS status,
       w.queue, coalesce(w.version, r.version) AS version, w.parent_id, w.attributes,
       w.created_at, w.finished_at,
       coalesce(w.finished_at, everstep.clock()) - w.created_at AS duration,
       r.priority, r.wake_at, r.wait_key AS waits_for, r.deadline, r.crashes,
       everstep.payload(w.codec, w.input) AS input,
       everstep.payload(w.codec, w.output) AS output,
       everstep.payload(1::smallint, w.error) ->> 'type' AS error_type,
       everstep.payload(1::smallint, w.error) ->> 'message' AS error_message,
       everstep.payload(1::smallint, w.error) ->> 'traceback' AS error_traceback
  FROM everstep.workflow w LEFT JOIN everstep.run r ON r.id = w.id;

CREATE VIEW everstep.steps AS
SELECT c.workflow_id, c.branch, c.seq, c.name,
       CASE c.kind WHEN 1 THEN 'step' WHEN 2 THEN 'sleep' ELSE 'kind ' || c.kind END AS kind,
       CASE WHEN c.error IS NULL THEN 'succeeded' ELSE 'failed' END AS status,
       c.attempts, make_interval(secs => c.seconds) AS duration, c.recorded_at,
       everstep.payload(c.codec, c.output) AS output,
       everstep.payload(1::smallint, c.error) ->> 'type' AS error_type,
       everstep.payload(1::smallint, c.error) ->> 'message' AS error_message,
       c.epoch
  FROM everstep.checkpoint c;

-- ---------------------------------------------------------------------------------------------
-- The contract with the operator: docs/reference/contract.md.

CREATE VIEW everstep.v1_versions AS
SELECT v.version, v.state, v.created_at, v.current_since, v.draining_since, v.drained_since, v.retired_at,
       (SELECT count(*) FROM everstep.worker k
         WHERE k.version = v.version AND k.state = 1 AND k.lease_until > everstep.clock()) AS workers,
       coalesce(o.running, 0) AS running, coalesce(o.queued, 0) AS queued, coalesce(o.parked, 0) AS parked,
       (SELECT min(w.created_at) FROM everstep.workflow w WHERE w.id = ANY (s.ids)) AS oldest,
       o.next_wake, s.ids AS sample
  FROM everstep.version v
  LEFT JOIN (
    SELECT r.version,
           count(*) FILTER (WHERE r.state = 2) AS running,
           count(*) FILTER (WHERE r.state = 1) AS queued,
           count(*) FILTER (WHERE r.state = 3) AS parked,
           min(r.wake_at) FILTER (WHERE r.state = 3) AS next_wake
      FROM everstep.run r WHERE r.version IS NOT NULL GROUP BY r.version) o ON o.version = v.version
  CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT r.id FROM everstep.run r WHERE r.version = v.version AND o.version IS NOT NULL
                  ORDER BY r.id LIMIT 5) AS ids) s;

-- runnable: how many of the ready ones a worker that came now could take. Nobody should start workers for what a pause
-- or a limit holds back.
CREATE VIEW everstep.v1_queues AS
SELECT coalesce(q.name, o.queue) AS queue, coalesce(q.paused, false) AS paused,
       coalesce(o.ready, 0) AS ready, coalesce(o.delayed, 0) AS delayed,
       coalesce(o.running, 0) AS running, coalesce(o.waiting, 0) AS waiting, o.oldest_ready_at,
       CASE WHEN q.paused THEN 0
            ELSE least(coalesce(o.ready, 0), q.max_running - least(q.max_running, coalesce(o.running, 0))) END AS runnable
  FROM everstep.queue q
  FULL JOIN (
    SELECT r.queue,
           count(*) FILTER (WHERE r.state = 1) AS ready,
           count(*) FILTER (WHERE r.state = 3 AND r.epoch = 0) AS delayed,
           count(*) FILTER (WHERE r.state = 2) AS running,
           count(*) FILTER (WHERE r.state = 3 AND r.epoch > 0) AS waiting,
           min(r.ready_at) FILTER (WHERE r.state = 1) AS oldest_ready_at
      FROM everstep.run r GROUP BY r.queue) o ON o.queue = q.name;

CREATE VIEW everstep.v1_workers AS
SELECT k.pod, k.version,
       CASE k.state WHEN 1 THEN 'live' WHEN 2 THEN 'draining' ELSE 'dead' END AS state,
       k.started_at, k.lease_until,
       (SELECT count(*) FROM everstep.run r WHERE r.worker_id = k.id AND r.state = 2) AS running
  FROM everstep.worker k;

CREATE VIEW everstep.v1_routing AS
SELECT t.current, t.ramping, t.percent, t.revision, t.changed_at,
       everstep.clock() AS database_time, pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       (SELECT max(m.number) FROM everstep.migration m WHERE m.origin = 'engine')::integer AS engine_schema
  FROM everstep.routing t;

CREATE FUNCTION everstep.set_routing(current text, ramping text, percent integer, expected_revision bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    seen bigint;
BEGIN
    IF set_routing.current IS NULL OR coalesce(set_routing.percent, -1) NOT BETWEEN 0 AND 100
       OR set_routing.ramping = set_routing.current
       OR (set_routing.ramping IS NULL AND set_routing.percent > 0) THEN
        RAISE EXCEPTION 'routing needs a current version, another one to ramp, and a percent from 0 to 100'
            USING ERRCODE = '22023';
    END IF;
    SELECT t.revision INTO STRICT seen FROM everstep.routing t FOR UPDATE;
    IF seen <> expected_revision THEN
        RAISE EXCEPTION 'routing is at revision %, not %: read v1_routing and decide again',
            seen, expected_revision USING ERRCODE = 'EV409';
    END IF;
    INSERT INTO everstep.version (version, created_at)
    SELECT v, everstep.clock() FROM unnest(ARRAY[set_routing.current, set_routing.ramping]) AS v
     WHERE v IS NOT NULL ON CONFLICT DO NOTHING;
    UPDATE everstep.version v SET
        state = CASE v.version WHEN set_routing.current THEN 'current'
                WHEN set_routing.ramping THEN 'ramping' ELSE 'draining' END,
        current_since = CASE WHEN v.version = set_routing.current AND v.state <> 'current'
                             THEN everstep.clock() ELSE v.current_since END,
        draining_since = CASE WHEN v.version IN (set_routing.current, set_routing.ramping) THEN NULL
                              ELSE everstep.clock() END,
        drained_since = NULL, retired_at = NULL
     WHERE v.version IN (set_routing.current, set_routing.ramping) OR v.state IN ('current', 'ramping');
    UPDATE everstep.routing SET current = set_routing.current, ramping = set_routing.ramping,
           percent = set_routing.percent, revision = revision + 1, changed_at = everstep.clock();
    RETURN seen + 1;
END $$;

-- Exact by quiescence: a claim runs at most 15 s on the server (its own statement_timeout), so 30 s
-- after the routing moved away no straggler with the old routing in its snapshot can pin a workflow.
CREATE FUNCTION everstep.mark_drained(version text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now_state text;
    since timestamptz;
BEGIN
    SELECT v.state, v.draining_since INTO now_state, since FROM everstep.version v WHERE v.version = mark_drained.version FOR UPDATE;
    IF now_state = 'draining'
       AND everstep.clock() - since > interval '30 seconds'
       AND NOT EXISTS (SELECT FROM everstep.run r WHERE r.version = mark_drained.version) THEN
        UPDATE everstep.version v SET state = 'drained', drained_since = everstep.clock()
         WHERE v.version = mark_drained.version;
        RETURN true;
    END IF;
    RETURN coalesce(now_state IN ('drained', 'retired'), false);
END $$;

-- A version that never served, has no worker and nothing open is as good as drained.
CREATE FUNCTION everstep.retire_version(version text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE everstep.version v SET state = 'retired', retired_at = everstep.clock(),
           drained_since = coalesce(v.drained_since, everstep.clock())
     WHERE v.version = retire_version.version
       AND (v.state = 'drained' OR v.state = 'pending'
            AND NOT EXISTS (SELECT FROM everstep.run r WHERE r.version = retire_version.version)
            AND NOT EXISTS (SELECT FROM everstep.worker k WHERE k.version = retire_version.version
                               AND k.state < 3 AND k.lease_until > everstep.clock()));
    RETURN EXISTS (SELECT FROM everstep.version v
                    WHERE v.version = retire_version.version AND v.state = 'retired');
END $$;

CREATE FUNCTION everstep.declare_dead(pod text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    declared bigint;
BEGIN
    UPDATE everstep.worker k SET state = 3 WHERE k.pod = declare_dead.pod AND k.state < 3;
    GET DIAGNOSTICS declared = ROW_COUNT;
    IF declared > 0 THEN
        UPDATE everstep.ticket SET next_at = '-infinity' WHERE task = 'sweep';
    END IF;
    RETURN declared;
END $$;
