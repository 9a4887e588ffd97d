-- Starts and limits in SQL say what is wrong in words, and take what Python takes. docs/guides/starting.md.
-- everstep: oldest-code 6

-- A text as an error shows it.
CREATE FUNCTION everstep.brief(value text, most integer DEFAULT 120) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(value) > most THEN quote_literal(left(value, most) || '...') ELSE coalesce(quote_literal(value), 'null') END
$$;

-- These have nothing to say of null.
CREATE FUNCTION everstep.check_text(what text, value text, longest integer) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF octet_length(value) NOT BETWEEN 1 AND longest THEN
        RAISE EXCEPTION '% is a text of 1 to % bytes, not %', what, longest, everstep.brief(value) USING
            ERRCODE = '22023',
            HINT = CASE WHEN value = '' THEN 'If there is none, leave it out or give null.'
                        ELSE 'Give a shorter one; a hash will do, for example md5(...).' END;
    END IF;
END $$;

CREATE FUNCTION everstep.check_queue(queue text) RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF octet_length(queue) BETWEEN 1 AND 200 AND queue !~ '[[:cntrl:]]' THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'a queue has a printable name of 1 to 200 bytes, not %', everstep.brief(queue) USING
        ERRCODE = '22023', HINT = 'Give the name that the workers listen to; SELECT queue FROM everstep.queues has them.';
END $$;

CREATE FUNCTION everstep.check_duration(what text, value interval) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF extract(epoch FROM value) NOT BETWEEN 0 AND 100 * 366 * 86400::bigint THEN
        RAISE EXCEPTION '% is between 0 seconds and 100 years, not %', what, value USING
            ERRCODE = '22023', HINT = format('Without %s, leave it out or give null.', what);
    END IF;
END $$;

-- Neither infinity nor a year that the clients' languages do not know: who reads it would fail.
CREATE FUNCTION everstep.check_instant(what text, value timestamptz) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF value NOT BETWEEN timestamptz '0001-01-02 00:00+00' AND timestamptz '9999-12-30 00:00+00' THEN
        RAISE EXCEPTION '% is an instant in the years 1 to 9999, not %', what, value USING
            ERRCODE = '22023', HINT = format('Without %s, leave it out or give null.', what);
    END IF;
END $$;

-- What every start says.
CREATE FUNCTION everstep.check_start(
    name text, input jsonb, queue text, priority integer, timeout interval, deadline timestamptz, attributes jsonb,
    version text, partition text
) RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF check_start.name IS NULL OR check_start.name = '' THEN
        RAISE EXCEPTION 'a start needs the name of a workflow' USING
            ERRCODE = '22023', HINT = 'It is the function''s name, or what @app.workflow(name=...) says.';
    END IF;
    IF jsonb_typeof(check_start.input) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'input is a JSON object of the workflow''s parameters by name, not %',
            everstep.brief(check_start.input::text) USING
            ERRCODE = '22023', HINT = 'For example {"customer": "cy"}, and {} for a workflow without parameters.';
    END IF;
    IF (check_start.priority BETWEEN 0 AND 3) IS NOT TRUE THEN
        RAISE EXCEPTION 'priority is 0 (first) to 3 (last), not %', coalesce(check_start.priority::text, 'null') USING
            ERRCODE = '22023', HINT = 'Leave it out for the usual one, 1.';
    END IF;
    IF jsonb_typeof(check_start.attributes) <> 'object' THEN
        RAISE EXCEPTION 'attributes are a JSON object, not %', everstep.brief(check_start.attributes::text) USING
            ERRCODE = '22023', HINT = 'For example {"campaign": "spring"}.';
    END IF;
    -- One statement, because every start pays for each.
    PERFORM everstep.check_text('the name of a workflow', check_start.name, 512),
            everstep.check_queue(check_start.queue),
            everstep.check_duration('timeout', check_start.timeout),
            everstep.check_instant('deadline', check_start.deadline),
            everstep.check_text('a version', check_start.version, 200),
            everstep.check_text('a partition', check_start.partition, 200);
END $$;

-- Which earlier workflow a start may meet, and what it wants then.
CREATE FUNCTION everstep.check_policies(id text, dedup text, on_duplicate text, on_existing text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF check_policies.on_existing = 'restart' THEN
        RAISE EXCEPTION 'on_existing => ''restart'' is no part of a transaction, so SQL does not have it' USING
            ERRCODE = '22023',
            HINT = 'Use client.start(..., on_existing="restart") or `everstep workflow start --on-existing restart`.';
    END IF;
    IF (check_policies.on_existing IN ('return', 'reject')) IS NOT TRUE THEN
        RAISE EXCEPTION 'on_existing is one of return, reject, not %', everstep.brief(check_policies.on_existing) USING
            ERRCODE = '22023', HINT = 'Leave it out for the usual one, return.';
    END IF;
    IF (check_policies.on_duplicate IN ('reject', 'return')) IS NOT TRUE THEN
        RAISE EXCEPTION 'on_duplicate is one of reject, return, not %', everstep.brief(check_policies.on_duplicate) USING
            ERRCODE = '22023', HINT = 'Leave it out for the usual one, reject.';
    END IF;
    IF check_policies.on_existing = 'reject' AND check_policies.id IS NULL THEN
        RAISE EXCEPTION 'on_existing => ''reject'' is about an earlier id' USING ERRCODE = '22023', HINT = 'Give id too.';
    END IF;
    IF check_policies.on_duplicate = 'return' AND check_policies.dedup IS NULL THEN
        RAISE EXCEPTION 'on_duplicate => ''return'' is about an earlier dedup' USING
            ERRCODE = '22023', HINT = 'Give dedup too.';
    END IF;
END $$;

-- A repeated start gives the same workflow; an id that stands for another one is a mistake. `body`, `body_codec`: what
-- the workflow of this id was started with.
CREATE FUNCTION everstep.meet_existing(
    id text, name text, input jsonb, policy text, of_name text, body_codec smallint, body bytea
) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    recorded jsonb := everstep.payload(body_codec, body);
    difference text;
BEGIN
    IF of_name <> meet_existing.name THEN
        difference := format('with another name or input: it is of workflow %s, not %s',
                             everstep.brief(of_name), everstep.brief(meet_existing.name));
    ELSIF recorded IS NULL THEN
        difference := 'with an input that SQL cannot read, so nobody can tell here whether it is the same';
    ELSIF recorded <> meet_existing.input THEN
        difference := format('with another name or input: it has the input %s, not %s',
                             everstep.brief(recorded::text, 200), everstep.brief(meet_existing.input::text, 200));
    ELSIF policy = 'reject' THEN
        RAISE EXCEPTION 'workflow % exists already', everstep.brief(meet_existing.id, 512) USING
            ERRCODE = '23505', HINT = 'on_existing => ''return'' gives its id instead.';
    ELSE
        RETURN meet_existing.id;
    END IF;
    RAISE EXCEPTION 'workflow % exists already, %', everstep.brief(meet_existing.id, 512), difference USING
        ERRCODE = '23505',
        HINT = 'An id stands for one workflow with one input: use another id, or start it with the same name and input '
               'to get the same workflow.';
END $$;

DROP FUNCTION everstep.start(text, jsonb, text, text, integer, interval, timestamptz, interval, text, jsonb, text, text);

-- Start a workflow from any language, or from a trigger, in the caller's transaction. Returns its id. The options are
-- those of Python's client.start; the newest stand last, so that calls by position keep their meaning.
CREATE FUNCTION everstep.start(
    name text, input jsonb, id text DEFAULT NULL, queue text DEFAULT 'default', priority integer DEFAULT 1,
    delay interval DEFAULT NULL, run_at timestamptz DEFAULT NULL, timeout interval DEFAULT NULL,
    dedup text DEFAULT NULL, attributes jsonb DEFAULT NULL, version text DEFAULT NULL, partition text DEFAULT NULL,
    deadline timestamptz DEFAULT NULL, on_duplicate text DEFAULT 'reject', on_existing text DEFAULT 'return'
) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    chosen text := coalesce(start.id, replace(gen_random_uuid()::text, '-', ''));
    to_queue text := coalesce(start.queue, 'default');
    wake timestamptz;
    earlier record;
    holder text;
BEGIN
    PERFORM everstep.check_start(start.name, start.input, to_queue, start.priority, start.timeout, start.deadline,
                                 start.attributes, start.version, start.partition),
            everstep.check_policies(start.id, start.dedup, start.on_duplicate, start.on_existing),
            everstep.check_text('a workflow id', start.id, 512),
            everstep.check_text('a deduplication key', start.dedup, 512),
            everstep.check_duration('delay', start.delay), everstep.check_instant('run_at', start.run_at);
    IF start.run_at IS NOT NULL AND start.delay <> interval '0' THEN
        RAISE EXCEPTION 'delay and run_at both say when it may begin' USING ERRCODE = '22023', HINT = 'Give one of them.';
    END IF;
    wake := coalesce(start.run_at, everstep.clock() + start.delay);
    LOOP
        -- Again after a lost race: who was in the way is committed by now, and the next look sees it.
        IF start.dedup IS NOT NULL THEN
            SELECT r.id INTO holder FROM everstep.run r
             WHERE r.queue = to_queue AND r.dedup = start.dedup AND r.id <> chosen;
            IF FOUND THEN
                EXIT WHEN start.on_duplicate = 'return';
                RAISE EXCEPTION 'deduplication key % is held by workflow % until that finishes',
                    everstep.brief(start.dedup, 512), everstep.brief(holder, 512) USING
                    ERRCODE = '23505', HINT = 'on_duplicate => ''return'' gives its id instead.';
            END IF;
        END IF;
        INSERT INTO everstep.workflow AS w (id, name, queue, attributes, codec, input, created_at)
        VALUES (chosen, start.name, to_queue, start.attributes, 1, convert_to(start.input::text, 'UTF8'),
                everstep.clock())
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            SELECT w.name, w.codec, w.input INTO earlier FROM everstep.workflow w WHERE w.id = chosen;
            CONTINUE WHEN NOT FOUND;  -- deleted in between
            RETURN everstep.meet_existing(chosen, start.name, start.input, start.on_existing, earlier.name,
                                          earlier.codec, earlier.input);
        END IF;
        INSERT INTO everstep.run (id, name, version, queue, partition, priority, state, ready_at, wake_at, deadline, dedup)
        VALUES (chosen, start.name, start.version, to_queue, start.partition, start.priority,
                CASE WHEN wake > everstep.clock() THEN 3 ELSE 1 END, everstep.clock(),
                CASE WHEN wake > everstep.clock() THEN wake END,
                least(start.deadline, everstep.clock() + start.timeout), start.dedup)
        ON CONFLICT (queue, dedup) WHERE dedup IS NOT NULL DO NOTHING;
        IF FOUND THEN
            INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
            VALUES (1, to_queue, start.name, 0, 0, 1, 0);
            RETURN chosen;
        END IF;
        -- Another one took the key after the look. No subtransaction, which every start with a key would pay for.
        DELETE FROM everstep.workflow w WHERE w.id = chosen;
    END LOOP;
    RETURN holder;
END $$;

DROP FUNCTION everstep.debounce(text, jsonb, text, interval, interval, text, integer, interval, jsonb, text, text);

-- The same for a start that waits until it is quiet.
CREATE FUNCTION everstep.debounce(
    name text, input jsonb, key text, time_window interval, max_wait interval DEFAULT NULL,
    queue text DEFAULT 'default', priority integer DEFAULT 1, timeout interval DEFAULT NULL,
    attributes jsonb DEFAULT NULL, version text DEFAULT NULL, partition text DEFAULT NULL,
    deadline timestamptz DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    to_queue text := coalesce(debounce.queue, 'default');
BEGIN
    PERFORM everstep.check_start(debounce.name, debounce.input, to_queue, debounce.priority, debounce.timeout,
                                 debounce.deadline, debounce.attributes, debounce.version, debounce.partition),
            everstep.check_text('a debounce key', coalesce(debounce.key, ''), 512),
            everstep.check_duration('time_window', debounce.time_window),
            everstep.check_duration('max_wait', debounce.max_wait);
    IF (debounce.time_window > interval '0') IS NOT TRUE OR debounce.max_wait < debounce.time_window THEN
        RAISE EXCEPTION 'a debounce takes a time_window longer than nothing, and a max_wait that is not shorter, not % and %',
            coalesce(debounce.time_window::text, 'null'), coalesce(debounce.max_wait::text, 'null') USING
            ERRCODE = '22023', HINT = 'It begins once there has been no start for time_window, and at the latest after max_wait.';
    END IF;
    RETURN (SELECT d.id FROM everstep.start_debounced(
        replace(gen_random_uuid()::text, '-', ''), debounce.name, debounce.key,
        extract(epoch FROM debounce.time_window)::float8, extract(epoch FROM debounce.max_wait)::float8,
        convert_to(debounce.input::text, 'UTF8'), 1::smallint, to_queue, debounce.partition,
        debounce.priority::smallint, debounce.version,
        least(debounce.deadline, everstep.clock() + debounce.timeout), debounce.attributes) d);
END $$;

CREATE FUNCTION everstep.check_count(what text, value text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF (value ~ '^[1-9][0-9]{0,9}$' AND lpad(value, 10, '0') <= '2147483647') IS NOT TRUE THEN
        RAISE EXCEPTION '% is a whole number of at least 1, not %', what, everstep.brief(value) USING
            ERRCODE = '22023', HINT = 'null lifts a limit, and to stop a queue pause it.';
    END IF;
END $$;

CREATE FUNCTION everstep.check_rate(what text, value jsonb) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    seconds text;
BEGIN
    seconds := CASE WHEN jsonb_typeof(value) = 'array' AND jsonb_array_length(value) = 3 THEN value ->> 1 END;
    seconds := CASE WHEN seconds ~ '^[0-9]+(\.[0-9]+)?$' THEN seconds END;
    IF (seconds::numeric BETWEEN 0.001 AND 366 * 86400) IS NOT TRUE THEN
        RAISE EXCEPTION '% is [starts, seconds, burst] with between 0.001 seconds and 366 days, not %', what,
            everstep.brief(value::text) USING
            ERRCODE = '22023', HINT = '[100, 60, 5] is 100 a minute and up to 5 at once; null lifts the rate.';
    END IF;
    PERFORM everstep.check_count(what || ': starts', value ->> 0);
    PERFORM everstep.check_count(what || ': burst', value ->> 2);
END $$;

CREATE FUNCTION everstep.check_limits(queue text, change jsonb) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    counts text[] := ARRAY['worker_concurrency', 'max_running', 'partition_max_running'];
    rates text[] := ARRAY['rate', 'partition_rate'];
    unknown text;
    one record;
BEGIN
    IF jsonb_typeof(check_limits.change) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'a change of queue % is a JSON object, not %', check_limits.queue,
            everstep.brief(check_limits.change::text) USING ERRCODE = '22023', HINT = 'For example {"max_running": 30}.';
    END IF;
    SELECT string_agg(k, ', ' ORDER BY k) INTO unknown FROM jsonb_object_keys(check_limits.change) k
     WHERE k <> ALL (counts || rates);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'queue %: there is no limit %; there are %', check_limits.queue, unknown,
            array_to_string(counts || rates, ', ') USING
            ERRCODE = '22023', HINT = 'Nothing was changed. A queue is paused with `everstep queue pause`.';
    END IF;
    FOR one IN SELECT e.key, e.value FROM jsonb_each(check_limits.change) e WHERE jsonb_typeof(e.value) <> 'null' LOOP
        IF one.key = ANY (counts) THEN
            PERFORM everstep.check_count(format('queue %s: %s', check_limits.queue, one.key), one.value #>> '{}');
        ELSE
            PERFORM everstep.check_rate(format('queue %s: %s', check_limits.queue, one.key), one.value);
        END IF;
    END LOOP;
END $$;

-- Change what `change` names: a JSON object by the names of the columns; a rate is [starts, seconds, burst] and null
-- lifts a limit.
CREATE OR REPLACE FUNCTION everstep.set_queue(queue text, change jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM everstep.check_queue(set_queue.queue);
    PERFORM everstep.check_limits(set_queue.queue, change);
    INSERT INTO everstep.queue AS q (name, created_at) VALUES (set_queue.queue, everstep.clock()) ON CONFLICT DO NOTHING;
    UPDATE everstep.queue q SET
        worker_concurrency = CASE WHEN change ? 'worker_concurrency'
            THEN (change ->> 'worker_concurrency')::integer ELSE q.worker_concurrency END,
        max_running = CASE WHEN change ? 'max_running' THEN (change ->> 'max_running')::integer ELSE q.max_running END,
        rate = CASE WHEN change ? 'rate' THEN (change -> 'rate' ->> 0)::integer ELSE q.rate END,
        rate_per = CASE WHEN change ? 'rate' THEN make_interval(secs => (change -> 'rate' ->> 1)::float8) ELSE q.rate_per END,
        burst = CASE WHEN change ? 'rate' THEN (change -> 'rate' ->> 2)::integer ELSE q.burst END,
        partition_max_running = CASE WHEN change ? 'partition_max_running'
            THEN (change ->> 'partition_max_running')::integer ELSE q.partition_max_running END,
        partition_rate = CASE WHEN change ? 'partition_rate'
            THEN (change -> 'partition_rate' ->> 0)::integer ELSE q.partition_rate END,
        partition_rate_per = CASE WHEN change ? 'partition_rate'
            THEN make_interval(secs => (change -> 'partition_rate' ->> 1)::float8) ELSE q.partition_rate_per END,
        partition_burst = CASE WHEN change ? 'partition_rate'
            THEN (change -> 'partition_rate' ->> 2)::integer ELSE q.partition_burst END
     WHERE q.name = set_queue.queue;
END $$;
