"""The command `everstep`: one module per command, and what commands share."""
