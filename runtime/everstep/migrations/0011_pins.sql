-- A start in SQL refuses to pin a workflow to what cannot be the version of any worker: it would wait for ever.
-- everstep: oldest-code 6

CREATE FUNCTION everstep.check_pin(version text) RETURNS void LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF version !~ '^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$' THEN
        RAISE EXCEPTION 'a version is letters, digits, dots, dashes and underscores, at most 64, beginning and ending '
                        'with a letter or digit, not %', everstep.brief(version) USING
            ERRCODE = '22023', HINT = 'Give one of `everstep version list`; null, or none, for the current one.';
    END IF;
END $$;

-- As in 0008 but for that.
CREATE OR REPLACE FUNCTION everstep.check_start(
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
            everstep.check_pin(check_start.version),
            everstep.check_text('a partition', check_start.partition, 200);
END $$;
