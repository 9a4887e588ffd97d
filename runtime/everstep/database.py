"""Another Postgres that transactions run on: its name, where its address comes from, where its records go."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from everstep.errors import UsageError
from everstep.settings import checked_schema, database_url

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")


@dataclass(frozen=True)
class Database:
    """A Postgres beside the engine's, for `@app.transaction(database=…)`.

    `url`: where it is; by default the environment says it, in EVERSTEP_DATABASE_URL_<NAME>. `schema`: holds the
    table everstep_transaction. `connections`: at most so many per worker, for each colour of transactions.
    """

    name: str
    url: str | None = field(default=None, repr=False)
    schema: str = "public"
    connections: int = 5

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise UsageError(
                f"database {self.name!r}: use lower-case letters, digits and underscores, at most 41, "
                f"beginning with a letter"
            )
        checked_schema(self.schema)
        if self.connections < 1:
            raise UsageError(f"database {self.name}: connections is at least 1")

    @property
    def variable(self) -> str:
        """The environment variable that holds the address if the code does not."""
        return f"EVERSTEP_DATABASE_URL_{self.name.upper()}"

    def address(self) -> str:
        """Its connection string. Raises UsageError if nobody has told it."""
        found = self.url or database_url(self.variable)
        if not found:
            raise UsageError(
                f"no address for database {self.name}: set {self.variable}, or give it in the code as "
                f"Database({self.name!r}, url)"
            )
        return found
