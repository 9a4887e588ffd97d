-- Version 2 adds a column. Version 1 does not know it and goes on working.
ALTER TABLE orders.booking ADD COLUMN gift_note text;
COMMENT ON COLUMN orders.booking.gift_note IS 'what the customer wants written on the card';
