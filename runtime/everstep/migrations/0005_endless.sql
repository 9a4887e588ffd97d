-- Workflows without an end, and starts of which the last one counts. docs/internals/generations.md.

-- generation counts continuations. What a generation records lies on branches of its own: '', '1', '1.2' of the first,
-- '~3', '~3.1', '~3.1.2' of the third after it. So positions are never used twice, and one range finds its log.
ALTER TABLE everstep.run
    ADD COLUMN generation integer NOT NULL DEFAULT 0,
    ADD COLUMN debounce   text COLLATE "C";      -- while it waits to begin: another start with this key replaces its input

-- The branches of a generation, from the first one to before the last, in the order of bytes: '.' < '/' < '0'.
CREATE FUNCTION everstep.branches_from(generation integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE generation WHEN 0 THEN '' ELSE '~' || generation END $$;
CREATE FUNCTION everstep.branches_to(generation integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE generation WHEN 0 THEN '~' ELSE '~' || generation || '/' END $$;

CREATE OR REPLACE FUNCTION everstep.kind_word(kind smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((ARRAY['step', 'sleep', 'timer', 'receive', 'send', 'publish', 'event', 'child', 'result',
                           'value', 'transaction', 'started', 'stream', 'continue'])[kind], 'kind ' || kind)
$$;

CREATE OR REPLACE VIEW everstep.steps AS
SELECT c.workflow_id, c.branch, c.seq, c.name, everstep.kind_word(c.kind) AS kind,
       CASE WHEN c.error IS NULL THEN 'succeeded' ELSE 'failed' END AS status,
       c.attempts, make_interval(secs => c.seconds) AS duration, c.recorded_at,
       everstep.payload(c.codec, c.output) AS output,
       everstep.payload(1::smallint, c.error) ->> 'type' AS error_type,
       everstep.payload(1::smallint, c.error) ->> 'message' AS error_message,
       c.epoch,
       CASE WHEN c.branch LIKE '~%' THEN split_part(substr(c.branch, 2), '.', 1)::integer ELSE 0 END AS generation
  FROM everstep.checkpoint c;

CREATE OR REPLACE VIEW everstep.workflows AS
SELECT w.id, w.name, everstep.status_word(w.status, r.state, r.wake_at) AS status,
       w.queue, coalesce(w.version, r.version) AS version, w.parent_id, w.attributes,
       w.created_at, w.finished_at,
       coalesce(w.finished_at, everstep.clock()) - w.created_at AS duration,
       r.priority, r.wake_at, r.wait_key AS waits_for, r.deadline, r.crashes,
       everstep.payload(w.codec, w.input) AS input,
       everstep.payload(w.codec, w.output) AS output,
       everstep.payload(1::smallint, w.error) ->> 'type' AS error_type,
       everstep.payload(1::smallint, w.error) ->> 'message' AS error_message,
       everstep.payload(1::smallint, w.error) ->> 'traceback' AS error_traceback,
       r.generation
  FROM everstep.workflow w LEFT JOIN everstep.run r ON r.id = w.id;
