-- Workflows without an end, and starts of which the last one counts. docs/internals/generations.md.

-- generation counts continuations. What a generation records lies on branches of its own: '', '1', '1.2' of the first,
-- '~3', '~3.1', '~3.1.2' of the third after it. So positions are never used twice, and one range finds its log.
ALTER TABLE everstep.run
    ADD COLUMN generation integer NOT NULL DEFAULT 0,
    ADD COLUMN debounce   text COLLATE "C";      -- while it waits to begin: another start with this key replaces its input

-- The branches of a generation, from the first one to before the last, in the order of bytes: '.' < '/' < '0'.
-- Inlined by the planner: nothing in them may be less than immutable.
CREATE FUNCTION everstep.branches_from(generation integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE generation WHEN 0 THEN '' ELSE '~' || generation::text END $$;
CREATE FUNCTION everstep.branches_to(generation integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE generation WHEN 0 THEN '~' ELSE '~' || generation::text || '/' END $$;

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

-- ---------------------------------------------------------------------------------------------
-- Debounce: while a workflow waits to begin, a start with the same name and key replaces its input and moves the
-- time. docs/guides/debounce.md.

CREATE UNIQUE INDEX run_debounce ON everstep.run (name, debounce)
    WHERE debounce IS NOT NULL AND state = 3 AND epoch = 0;

-- What clients call. The run's row is locked before anything is decided. Whoever wakes it has that lock first, and then
-- this finds nothing waiting and begins another one; or comes later, and wakes it with this input.
CREATE FUNCTION everstep.start_debounced(
    chosen text, of_name text, key text, seconds float8, max_seconds float8, body bytea, body_codec smallint,
    to_queue text, of_partition text, of_priority smallint, for_version text, last_moment timestamptz, given jsonb,
    OUT id text, OUT created boolean
) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    created := EXISTS (SELECT FROM everstep.workflow w WHERE w.id = chosen);
    IF created THEN
        id := chosen;  -- this very call, repeated: its first reply was lost
        RETURN;
    END IF;
    LOOP
        PERFORM FROM everstep.run r WHERE r.name = of_name AND r.debounce = key AND r.state = 3 AND r.epoch = 0;
        IF FOUND THEN
            BEGIN
                SELECT r.id INTO STRICT id FROM everstep.run r
                 WHERE r.name = of_name AND r.debounce = key AND r.state = 3 AND r.epoch = 0 FOR UPDATE;
                UPDATE everstep.workflow w SET input = body, codec = body_codec
                 WHERE w.id = start_debounced.id RETURNING w.created_at INTO began;
                UPDATE everstep.run r SET wake_at = least(everstep.clock() + make_interval(secs => seconds),
                                                          began + make_interval(secs => max_seconds))
                 WHERE r.id = start_debounced.id;
                RETURN;
            EXCEPTION WHEN no_data_found THEN
                -- It was woken while this waited for the lock, and the lock was taken all the same. Leaving this block
                -- gives it back; else a slow transaction of the caller's would stop a workflow that runs.
                NULL;
            END;
        END IF;
        INSERT INTO everstep.run AS r (id, name, version, queue, partition, priority, state, ready_at, wake_at, deadline,
                                       debounce)
        VALUES (chosen, of_name, for_version, to_queue, of_partition, of_priority, 3, everstep.clock(),
                everstep.clock() + make_interval(secs => seconds), last_moment, key)
        ON CONFLICT (name, debounce) WHERE debounce IS NOT NULL AND state = 3 AND epoch = 0 DO NOTHING;
        created := FOUND;
        EXIT WHEN created;
        -- Another start with this key came first; it is committed by now, and the next look sees it.
    END LOOP;
    id := chosen;
    INSERT INTO everstep.workflow (id, name, queue, attributes, codec, input, created_at)
    VALUES (chosen, of_name, to_queue, given, body_codec, body, everstep.clock());
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    VALUES (1, to_queue, of_name, 0, 0, 1, 0);
END $$;

-- The same from any language, or from a trigger, in the caller's transaction. Returns the id.
CREATE FUNCTION everstep.debounce(
    name text, input jsonb, key text, time_window interval, max_wait interval DEFAULT NULL,
    queue text DEFAULT 'default', priority integer DEFAULT 1, timeout interval DEFAULT NULL,
    attributes jsonb DEFAULT NULL, version text DEFAULT NULL, partition text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF jsonb_typeof(debounce.input) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'input is a JSON object of the workflow''s parameters by name' USING ERRCODE = '22023';
    END IF;
    IF debounce.key IS NULL OR debounce.time_window IS NULL OR debounce.time_window <= interval '0'
       OR debounce.max_wait < debounce.time_window THEN
        RAISE EXCEPTION 'debounce takes a key, a time_window longer than nothing, and a max_wait that is not shorter'
            USING ERRCODE = '22023';
    END IF;
    RETURN (SELECT d.id FROM everstep.start_debounced(
        replace(gen_random_uuid()::text, '-', ''), debounce.name, debounce.key,
        extract(epoch FROM debounce.time_window)::float8, extract(epoch FROM debounce.max_wait)::float8,
        convert_to(debounce.input::text, 'UTF8'), 1::smallint, debounce.queue, debounce.partition,
        debounce.priority::smallint, debounce.version, everstep.clock() + debounce.timeout, debounce.attributes) d);
END $$;
