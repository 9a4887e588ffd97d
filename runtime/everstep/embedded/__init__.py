"""A Postgres of this machine's own, for development, the demo and tests."""

from everstep.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
