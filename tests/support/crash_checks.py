"""What the reference workflow must have left behind, whatever happened to its workers and their connections."""

from __future__ import annotations

from support.database import Sql
from support.ledger import Ledger

Log = list[tuple[str, ...]]


def log_of(sql: Sql, number: int) -> Log:
    """The positions of a workflow and its children, with its number taken out."""
    rows = sql(
        "SELECT workflow_id, branch, seq, kind, name FROM everstep.checkpoint "
        "WHERE workflow_id = %(id)s OR starts_with(workflow_id, %(id)s || '/') ORDER BY 1, 2, 3",
        {"id": f"crash-{number}"},
    )
    return [tuple(str(value).replace(f"-{number}", "-N") for value in row) for row in rows]


def check_effects(sql: Sql, count: int) -> None:
    """Transactions, messages and streams of so many workflows happened exactly once."""
    assert sql("SELECT key FROM booking GROUP BY key HAVING count(*) <> 1") == []
    assert sql.one("SELECT count(*) FROM booking") == 2 * count
    assert sql("SELECT 1 FROM everstep.message WHERE consumed_seq IS NULL") == []
    assert sql.one("SELECT count(*) FROM everstep.message") == count
    lines = sql("SELECT count(*) AS n FROM everstep.stream GROUP BY workflow_id")
    assert [row.n for row in lines] == [2] * count


def check_executions(ledger: Ledger) -> int:
    """At most once what says so, the others at most once more. Returns how many were executed again."""
    executions = ledger.executions()
    once = {entry.key for entry in ledger.entries() if entry.token == "once"}
    assert once
    assert {executions[key] for key in once} == {1}
    assert max(executions.values()) <= 2
    again = executions.total() - len(executions)
    print(f"{executions.total()} executions of {len(executions)} steps, {again} again")
    return again
