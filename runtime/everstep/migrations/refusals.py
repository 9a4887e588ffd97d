"""Why a migration was refused, as the report that the command, the Job and the operator show. Pure."""

from __future__ import annotations

from everstep.errors import MigrationError


def failed(file: str, statement: int, sqlstate: str, said: str) -> MigrationError:
    cure = f"Put statement {statement} right and migrate again."
    if sqlstate == "42501":
        cure = "GRANT what is missing to this role (for a new schema: CREATE on the database), and migrate again."
    return MigrationError(
        {
            "code": "MigrationFailed",
            "file": file,
            "statement": statement,
            "sqlstate": sqlstate,
            "message": " ".join(said.split())[:500],
            "remedy": f"Nothing of {file} was kept if it is transactional. {cure}",
        }
    )


def another_runner() -> MigrationError:
    return MigrationError(
        {
            "code": "LockTimeout",
            "message": "another migration has held this schema's lock for a minute",
            "remedy": "See pg_locks (locktype advisory) for its process, wait for it, and run this again.",
        }
    )


def lock_timeout(
    file: str, statement: int, blockers: str, *, tries: int, seconds: int
) -> MigrationError:
    return MigrationError(
        {
            "code": "LockTimeout",
            "file": file,
            "statement": statement,
            "sqlstate": "55P03",
            "message": f"{file}, statement {statement}: no lock after {tries} tries of "
            f"{seconds} s. Open transactions: {blockers}",
            "remedy": "End the blocking transaction (pg_terminate_backend) and migrate again.",
        }
    )


def dirty(file: str) -> MigrationError:
    return MigrationError(
        {
            "code": "Dirty",
            "file": file,
            "message": f"{file} runs outside a transaction and stopped half-way",
            "remedy": "Look at what it did (an invalid index?), finish or undo it by hand, then set its row in "
            "everstep.migration to state 'applied', or delete the row to run it again.",
        }
    )


def too_new(found: int, oldest_code: int, known: int) -> MigrationError:
    return MigrationError(
        {
            "code": "SchemaTooNew",
            "message": f"the engine's schema is at {found} and needs code that knows {oldest_code}; "
            f"this code knows {known}",
            "remedy": "Run a newer everstep: the schema is never taken back.",
        }
    )


def diverged(file: str, what: str) -> MigrationError:
    return MigrationError(
        {
            "code": "HistoryDiverged",
            "file": file,
            "message": f"{file} {what}",
            "remedy": "Applied files stay as they are: restore it, and put the change into a new file with "
            "the next number.",
        }
    )
