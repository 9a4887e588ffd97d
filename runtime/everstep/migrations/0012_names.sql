-- A start in SQL refuses the names and attributes that Python refuses: no worker could have registered such a workflow,
-- or listen to such a queue. And the view of workflows has the partition and the deduplication key.
-- everstep: oldest-code 6

-- Whether a name can be shown as it is: no control or format characters, no private ones, and of spaces the plain one.
CREATE FUNCTION everstep.printable(value text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT value !~ ('['
            '\u0001-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u1680\u180e'
            '\u2000-\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ue000-\uf8ff\ufeff\ufff9-\ufffb'
            '\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001'
            '\U000e0020-\U000e007f\U000f0000-\U000ffffd\U00100000-\U0010fffd]')
$$;

CREATE FUNCTION everstep.check_name(what text, value text, hint text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF (octet_length(value) BETWEEN 1 AND 200 AND everstep.printable(value)) IS NOT TRUE THEN
        RAISE EXCEPTION '% has a printable name of 1 to 200 bytes, not %', what, everstep.brief(value) USING
            ERRCODE = '22023', HINT = check_name.hint;
    END IF;
END $$;

-- As in 0008, but printable is what it is in Python.
CREATE OR REPLACE FUNCTION everstep.check_queue(queue text) RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM everstep.check_name('a queue', check_queue.queue,
        'Give the name that the workers listen to; SELECT queue FROM everstep.queues has them.');
END $$;

-- As in 0011, but for the name and the size of the attributes.
CREATE OR REPLACE FUNCTION everstep.check_start(
    name text, input jsonb, queue text, priority integer, timeout interval, deadline timestamptz, attributes jsonb,
    version text, partition text
) RETURNS void LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    size bigint;
BEGIN
    IF check_start.name IS NULL THEN
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
    IF octet_length(check_start.attributes::text) > 65536 THEN
        -- Spaces between its parts do not count.
        size := octet_length(regexp_replace(check_start.attributes::text, '("([^"\\]|\\.)*")| ', '\1', 'g'));
        IF size > 65536 THEN
            RAISE EXCEPTION 'attributes of a workflow: the payload is % bytes, the limit is 65,536',
                to_char(size, 'FM999,999,999,999') USING
                ERRCODE = '22023', HINT = 'Store large values elsewhere and pass a reference.';
        END IF;
    END IF;
    -- One statement, because every start pays for each.
    PERFORM everstep.check_name('a workflow', check_start.name,
                'It is the function''s name, or what @app.workflow(name=...) says.'),
            everstep.check_queue(check_start.queue),
            everstep.check_duration('timeout', check_start.timeout),
            everstep.check_instant('deadline', check_start.deadline),
            everstep.check_pin(check_start.version),
            everstep.check_text('a partition', check_start.partition, 200);
END $$;

-- As in 0005, with the partition and the key at its end: like the priority, those of a workflow that is not finished.
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
       r.generation, r.partition, r.dedup
  FROM everstep.workflow w LEFT JOIN everstep.run r ON r.id = w.id;
