"""A small shop on everstep: orders are validated, charged, booked, packed and shipped."""
