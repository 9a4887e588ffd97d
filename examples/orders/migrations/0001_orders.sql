-- The shop's own tables. `executions` counts how often the step that writes a row ran: 1, unless a worker
-- died between the step's effect and its checkpoint.
CREATE SCHEMA orders;
CREATE TABLE orders.booking (
    key        text PRIMARY KEY,              -- the step's idempotency key
    order_id   text NOT NULL,                 -- the workflow's id
    customer   text NOT NULL,
    amount     numeric(12, 2) NOT NULL CHECK (amount > 0),
    currency   text NOT NULL,
    payment    text NOT NULL,
    status     text NOT NULL DEFAULT 'booked',
    executions integer NOT NULL DEFAULT 1,
    booked_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE orders.shipment (
    key        text PRIMARY KEY,
    order_id   text NOT NULL,
    tracking   text NOT NULL,
    executions integer NOT NULL DEFAULT 1,
    shipped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The payment provider's ledger: every attempt to charge, whatever became of it.
CREATE SCHEMA ledger;
CREATE TABLE ledger.charge_attempt (
    n        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key      text NOT NULL,                   -- the step's idempotency key
    order_id text NOT NULL,
    attempt  integer NOT NULL,
    outcome  text NOT NULL CHECK (outcome IN ('charged', 'unavailable')),
    amount   numeric(12, 2) NOT NULL,
    currency text NOT NULL,
    pod      text NOT NULL,
    version  text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
