-- Waiting for others: messages, events, the results of other workflows. docs/internals/waiting.md.

-- signals counts everything that happened to a workflow from outside. A park carries the count the workflow
-- had seen when it last looked, and is refused if it has grown: no wake-up can fall between looking and parking.
ALTER TABLE everstep.run
    ADD COLUMN signals integer NOT NULL DEFAULT 0,
    ADD COLUMN waiters text[] COLLATE "C";       -- workflows to wake when this one finishes or publishes

CREATE INDEX message_waiting ON everstep.message (workflow_id, topic, n) WHERE consumed_seq IS NULL;

-- event: what a workflow publishes under a name; the latest value wins, and outlives the workflow.
CREATE TABLE everstep.event (
    workflow_id text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    codec       smallint NOT NULL,
    body        bytea NOT NULL,
    set_at      timestamptz NOT NULL,
    PRIMARY KEY (workflow_id, key)
);

-- stream: values a workflow writes under a name, one after the other, readable while it runs and ever after.
CREATE TABLE everstep.stream (
    workflow_id text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    n           bigint GENERATED ALWAYS AS IDENTITY,
    branch      text COLLATE "C" NOT NULL,
    seq         integer NOT NULL,                -- with branch: where it was written; a repeated commit meets itself
    codec       smallint NOT NULL,
    body        bytea,                           -- null: the end
    written_at  timestamptz NOT NULL,
    PRIMARY KEY (workflow_id, key, n),
    UNIQUE (workflow_id, branch, seq)
);

-- Start a workflow from any language, or from a trigger, in the caller's transaction. Returns its id.
CREATE FUNCTION everstep.start(
    name text, input jsonb, id text DEFAULT NULL, queue text DEFAULT 'default', priority integer DEFAULT 1,
    delay interval DEFAULT NULL, run_at timestamptz DEFAULT NULL, timeout interval DEFAULT NULL,
    dedup text DEFAULT NULL, attributes jsonb DEFAULT NULL, version text DEFAULT NULL, partition text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    chosen text := coalesce(start.id, replace(gen_random_uuid()::text, '-', ''));
    wake timestamptz := coalesce(start.run_at, everstep.clock() + start.delay);
    earlier record;
BEGIN
    IF jsonb_typeof(start.input) <> 'object' THEN
        RAISE EXCEPTION 'input is a JSON object of the workflow''s parameters by name' USING ERRCODE = '22023';
    END IF;
    INSERT INTO everstep.workflow AS w (id, name, queue, attributes, codec, input, created_at)
    VALUES (chosen, start.name, start.queue, start.attributes, 1, convert_to(start.input::text, 'UTF8'), everstep.clock())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT w.name, everstep.payload(w.codec, w.input) AS input INTO earlier
          FROM everstep.workflow w WHERE w.id = chosen;
        IF earlier.name <> start.name OR earlier.input IS DISTINCT FROM start.input THEN
            RAISE EXCEPTION 'workflow % exists already, with another name or input', chosen USING ERRCODE = 'EV409';
        END IF;
        RETURN chosen;
    END IF;
    INSERT INTO everstep.run (id, name, version, queue, partition, priority, state, ready_at, wake_at, deadline, dedup)
    VALUES (chosen, start.name, start.version, start.queue, start.partition, start.priority,
            CASE WHEN wake > everstep.clock() THEN 3 ELSE 1 END, everstep.clock(),
            CASE WHEN wake > everstep.clock() THEN wake END, everstep.clock() + start.timeout, start.dedup);
    INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
    VALUES (1, start.queue, start.name, 0, 0, 1, 0);
    RETURN chosen;
END $$;

CREATE FUNCTION everstep.kind_word(kind smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((ARRAY['step', 'sleep', 'timer', 'receive', 'send', 'publish', 'event', 'child', 'result',
                           'value', 'transaction', 'started', 'stream'])[kind], 'kind ' || kind)
$$;

CREATE OR REPLACE VIEW everstep.steps AS
SELECT c.workflow_id, c.branch, c.seq, c.name, everstep.kind_word(c.kind) AS kind,
       CASE WHEN c.error IS NULL THEN 'succeeded' ELSE 'failed' END AS status,
       c.attempts, make_interval(secs => c.seconds) AS duration, c.recorded_at,
       everstep.payload(c.codec, c.output) AS output,
       everstep.payload(1::smallint, c.error) ->> 'type' AS error_type,
       everstep.payload(1::smallint, c.error) ->> 'message' AS error_message,
       c.epoch
  FROM everstep.checkpoint c;
