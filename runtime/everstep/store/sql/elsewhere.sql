-- Transactions on other databases: a row beside the user's own, committed with them, says that they were done and what
-- came of it. The schema is the one that the Database names.

-- name: create_records
CREATE TABLE IF NOT EXISTS everstep.everstep_transaction (
    key         uuid NOT NULL,        -- marked in the engine's database before the transaction began
    workflow_id text NOT NULL,
    branch      text NOT NULL,
    seq         integer NOT NULL,
    app         text NOT NULL,
    name        text NOT NULL,
    codec       smallint NOT NULL,
    output      bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (key, workflow_id)
);

-- name: records_exist
SELECT to_regclass('everstep.everstep_transaction') IS NOT NULL AS exist;

-- name: record_elsewhere
-- Last before the commit. Whoever comes second waits here for the first, and then finds no row.
INSERT INTO everstep.everstep_transaction (key, workflow_id, branch, seq, app, name, codec, output)
VALUES (%(key)s, %(id)s, %(branch)s, %(seq)s, %(app)s, %(name)s, %(codec)s, %(output)s)
ON CONFLICT (key, workflow_id) DO NOTHING RETURNING seq;

-- name: recorded_elsewhere
SELECT t.output, t.codec FROM everstep.everstep_transaction t WHERE t.key = %(key)s AND t.workflow_id = %(id)s;
