"""The book of another database: its table everstep_transaction, made on first use where that is allowed."""

from __future__ import annotations

import psycopg

from everstep.errors import DatabaseRefusedError
from everstep.store.places import Place
from everstep.store.sessions import AsyncTx, Tx, async_row_of, row_of
from everstep.store.statements import statements_elsewhere

MADE_MEANWHILE = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateTable,
)
"""What CREATE TABLE IF NOT EXISTS raises if another session makes the table at the same moment."""


class Records:
    """Rows of everstep_transaction in one schema of one database."""

    fence: bytes | None = None

    def __init__(self, database: str, schema: str, app: str) -> None:
        sql = statements_elsewhere(schema)
        self.record = sql["record_elsewhere"]
        self.recorded = sql["recorded_elsewhere"]
        self._create = sql["create_records"]
        self._exist = sql["records_exist"]
        self._database, self._schema, self._app = database, schema, app
        self._open = False

    def arguments(self, place: Place) -> dict[str, object]:
        return {"key": place.mark.key, "app": self._app}

    async def open(self, tx: AsyncTx) -> None:
        """Make the table, if nobody has. Raises DatabaseRefusedError with the statement for somebody who may."""
        if self._open:
            return
        if not (await async_row_of(tx, self._exist, {})).exist:
            try:
                await tx.execute(self._create)
            except MADE_MEANWHILE:
                pass
            except psycopg.Error as error:
                raise self._refused(error, tx.info.user) from None
        self._open = True

    def open_plain(self, tx: Tx) -> None:
        """The same for a thread."""
        if self._open:
            return
        if not row_of(tx, self._exist, {}).exist:
            try:
                tx.execute(self._create)
            except MADE_MEANWHILE:
                pass
            except psycopg.Error as error:
                raise self._refused(error, tx.info.user) from None
        self._open = True

    def _refused(self, error: psycopg.Error, user: str) -> Exception:
        if error.sqlstate not in ("42501", "3F000", "25006"):
            return error
        statement = self._create.decode().rstrip(";")
        return DatabaseRefusedError(
            f"database {self._database} has no table {self._schema}.everstep_transaction, and {user} may not make it "
            f"({str(error).splitlines()[0]}). Have it made once, by a role that may:\n\n{statement};\n"
            f"GRANT SELECT, INSERT ON {self._schema}.everstep_transaction TO {user};\n",
            error.sqlstate,
        )
