-- Schedules: workflows started by the clock. docs/guides/schedules.md.

-- schedule: one row per schedule. Its columns say what is in force; `declared` is what the code last said, so
-- that an operator's change lasts until the code says something else. Whoever moves next_at starts the tick's
-- workflow in the same statement.
CREATE TABLE everstep.schedule (
    name       text COLLATE "C" PRIMARY KEY CHECK (position(':' IN name) = 0),
    workflow   text COLLATE "C" NOT NULL,
    parameter  text NOT NULL,                    -- of the workflow function: takes the tick
    queue      text COLLATE "C" NOT NULL,
    cron       text,
    every      double precision CHECK (every >= 1),  -- seconds
    timezone   text NOT NULL,
    catch_up   text NOT NULL CHECK (catch_up ~ '^(skip|latest|all:[1-9][0-9]*)$'),
    overlap    text NOT NULL CHECK (overlap IN ('allow', 'skip', 'cancel_previous')),
    paused     boolean NOT NULL DEFAULT false,
    declared   jsonb NOT NULL,
    app        text COLLATE "C" NOT NULL,        -- whose code declares it
    routing    bigint NOT NULL,                  -- revision of the routing that the declaration was made under
    revision   bigint NOT NULL DEFAULT 0,        -- counts changes; what was computed from an older one is void
    next_at    timestamptz,
    last_at    timestamptz,                      -- the last tick that started a workflow
    skipped_at timestamptz,                      -- the last tick that found the previous workflow open
    removed_at timestamptz,                      -- no longer in the code; starts nothing
    CHECK ((cron IS NULL) <> (every IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX schedule_next ON everstep.schedule (next_at) WHERE NOT paused AND removed_at IS NULL;

CREATE VIEW everstep.schedules AS
SELECT s.name,
       CASE WHEN s.removed_at IS NOT NULL THEN 'removed' WHEN s.paused THEN 'paused' ELSE 'active' END AS state,
       s.workflow, s.queue, s.cron, make_interval(secs => s.every) AS every, s.timezone, s.catch_up, s.overlap,
       jsonb_build_object('workflow', s.workflow, 'parameter', s.parameter, 'queue', s.queue, 'cron', s.cron,
                          'every', s.every, 'timezone', s.timezone, 'catch_up', s.catch_up, 'overlap', s.overlap)
           <> s.declared AS edited,
       CASE WHEN s.removed_at IS NULL AND NOT s.paused THEN s.next_at END AS next_at,
       s.last_at, s.skipped_at
  FROM everstep.schedule s;
