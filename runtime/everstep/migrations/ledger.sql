CREATE SCHEMA IF NOT EXISTS everstep;
CREATE TABLE IF NOT EXISTS everstep.migration (
    origin      text NOT NULL CHECK (origin IN ('engine', 'user')),
    number      integer NOT NULL,
    file        text NOT NULL,
    checksum    text NOT NULL,
    state       text NOT NULL CHECK (state IN ('started', 'applied')),
    started_at  timestamptz NOT NULL,
    applied_at  timestamptz,
    applied_by  text NOT NULL,
    oldest_code integer,             -- of the engine's: the oldest code, by its newest number, that may run from here on
    PRIMARY KEY (origin, number)
);
