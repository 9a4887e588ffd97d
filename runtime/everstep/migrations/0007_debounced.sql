-- A start with debounce whose reply was lost is repeated by its client. docs/guides/debounce.md.
-- everstep: oldest-code 6

-- Which workflow a start gave its input to, by the id the start would have had itself. Kept for an hour: nobody repeats
-- a call for longer.
CREATE TABLE everstep.debounced (
    start_id    text COLLATE "C" PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL
);
CREATE INDEX debounced_at ON everstep.debounced (at);

-- As before, except that a repeat meets itself: also where its workflow has begun meanwhile, or has another input by now.
CREATE OR REPLACE FUNCTION everstep.start_debounced(
    chosen text, of_name text, key text, seconds float8, max_seconds float8, body bytea, body_codec smallint,
    to_queue text, of_partition text, of_priority smallint, for_version text, last_moment timestamptz, given jsonb,
    OUT id text, OUT created boolean
) LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    LOOP
        -- Its first try may even be under way still, and hold the lock that is waited for below.
        created := EXISTS (SELECT FROM everstep.workflow w WHERE w.id = chosen);
        IF created THEN
            id := chosen;
            RETURN;
        END IF;
        SELECT d.workflow_id INTO id FROM everstep.debounced d WHERE d.start_id = chosen;
        IF FOUND THEN
            RETURN;
        END IF;
        PERFORM FROM everstep.run r WHERE r.name = of_name AND r.debounce = key AND r.state = 3 AND r.epoch = 0;
        IF FOUND THEN
            BEGIN
                SELECT r.id INTO STRICT id FROM everstep.run r
                 WHERE r.name = of_name AND r.debounce = key AND r.state = 3 AND r.epoch = 0 FOR UPDATE;
                INSERT INTO everstep.debounced (start_id, workflow_id, at)
                VALUES (chosen, start_debounced.id, everstep.clock()) ON CONFLICT DO NOTHING;
                IF FOUND THEN
                    UPDATE everstep.workflow w SET input = body, codec = body_codec
                     WHERE w.id = start_debounced.id RETURNING w.created_at INTO began;
                    UPDATE everstep.run r SET wake_at = least(everstep.clock() + make_interval(secs => seconds),
                                                              began + make_interval(secs => max_seconds))
                     WHERE r.id = start_debounced.id;
                    -- One in, two out: the table stays as small as an hour is.
                    DELETE FROM everstep.debounced d WHERE d.start_id = ANY (ARRAY(
                        SELECT o.start_id FROM everstep.debounced o WHERE o.at < everstep.clock() - interval '1 hour'
                         ORDER BY o.at LIMIT 2 FOR UPDATE SKIP LOCKED));
                    RETURN;
                END IF;
            EXCEPTION WHEN no_data_found THEN
                -- It was woken while this waited for the lock, and the lock was taken all the same. Leaving this block
                -- gives it back; else a slow transaction of the caller's would stop a workflow that runs.
                NULL;
            END;
            CONTINUE;
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
