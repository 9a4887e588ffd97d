"""What a workflow may call, and gets the same answer to on every replay: one module for each kind of call."""
