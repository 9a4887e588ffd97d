-- A mistake, kept for the tests: orders.booking has had a column `status` since 0001, so statement 2 fails
-- with SQLSTATE 42701, statement 1 is rolled back with it, and version 2 goes on serving.
ALTER TABLE orders.shipment ADD COLUMN carrier text;
ALTER TABLE orders.booking ADD COLUMN status text NOT NULL DEFAULT 'booked';
