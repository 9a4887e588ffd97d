"""The only speaker of SQL: named statements in `sql/`, one typed function per statement."""
