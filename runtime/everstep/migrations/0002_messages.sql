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

CREATE FUNCTION everstep.kind_word(kind smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((ARRAY['step', 'sleep', 'timer', 'receive', 'send', 'publish', 'event', 'child', 'result',
                           'value', 'transaction'])[kind], 'kind ' || kind)
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
