"""Examines a database in use: the engine's invariants, and what stops or endangers work. Reads only.

Every finding says what is wrong, how bad it is, and what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from everstep.errors import DatabaseRefusedError, SchemaError
from everstep.migrations.known import newest_known
from everstep.settings import Settings
from everstep.store.checks import check_schema
from everstep.store.connection import Connection, Link
from everstep.store.diagnosis import Diagnosis, readable
from everstep.store.fsck import Broken, fsck_async

HORIZON_SECONDS = 600.0
PATIENCE_SECONDS = 60.0


class Severity(StrEnum):
    """An error loses work or stops it; a warning will, or needs a person's judgement."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `check` names the examination that found it."""

    check: str
    severity: Severity
    what: str
    remedy: str
    workflow_id: str | None = None


async def examine(settings: Settings, *, since: timedelta | None = None) -> list[Finding]:
    """All findings, worst first. `since`: of finished workflows, check those of this last while (None: all).

    Raises DatabaseUnreachableError if there is nothing to examine.
    """
    link = Link(readable(settings.url), "everstep doctor")
    grace = settings.lease_ttl * 4 / 3 + 1
    try:
        found = await link.first(lambda c: _examine(c, settings.schema, grace))
    except DatabaseRefusedError as error:
        if error.sqlstate != "42501":
            raise
        found = _privileges({"all": str(error).partition(": the role lacks")[0]})
    finally:
        await link.close()
    if not any(finding.check in ("schema", "privileges") for finding in found):
        broken = await fsck_async(
            settings.url,
            settings.schema,
            since=None if since is None else datetime.now(UTC) - since,
            grace=timedelta(seconds=grace),
        )
        found += [_invariant(one) for one in broken]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


async def _examine(connection: Connection, schema: str, grace: float) -> list[Finding]:
    try:
        await check_schema(connection, schema, newest_known())
    except SchemaError as error:
        what, _, remedy = str(error).rpartition(". Run ")
        return [Finding("schema", Severity.ERROR, what or str(error), f"Run {remedy}")]
    ask = Diagnosis(schema)
    if refused := await ask.refused(connection):
        return _privileges(refused)

    limits = {"grace": grace, "patience": PATIENCE_SECONDS, "horizon": HORIZON_SECONDS}
    found: list[Finding] = []
    for name, (limit, judge) in _QUESTIONS.items():
        arguments = {limit: limits[limit]} if limit else {}
        for row in await ask.ask(connection, name, **arguments):
            found += judge(row)
    return found


# -- judgements: one row in, findings out --------------------------------------------------------


def _server(row: Any) -> list[Finding]:
    found: list[Finding] = []
    if row.in_recovery:
        found.append(
            Finding(
                "standby",
                Severity.ERROR,
                "this server is a standby: nothing can be recorded on it",
                "Name the primary in the connection string (several hosts, target_session_attrs=read-write).",
            )
        )
    settings = ("synchronous_commit", "fsync", "full_page_writes")
    return found + [_durability(name, row.role) for name in settings if getattr(row, name) == "off"]


def _durability(setting: str, role: str) -> Finding:
    remedy = (
        f"ALTER ROLE {role} SET synchronous_commit = on, and look for it in postgresql.conf and the URL."
        if setting == "synchronous_commit"
        else f"Set {setting} = on in postgresql.conf and reload."
    )
    return Finding(
        "durability",
        Severity.ERROR,
        f"{setting} is off: a crash of the server loses what was acknowledged",
        remedy,
    )


def _migration(row: Any) -> list[Finding]:
    return [
        Finding(
            "migrations",
            Severity.ERROR,
            f"migration {row.file} ({row.origin}) began at {row.started_at:%Y-%m-%d %H:%M} and never ended",
            "If no migration is running now: finish or undo by hand what it did, then set its row in the table "
            "migration to 'applied', or delete the row to run it again.",
        )
    ]


def _orphan(row: Any) -> list[Finding]:
    who = f"worker {row.worker_id} (pod {row.pod})" if row.pod else f"worker {row.worker_id}"
    return [
        Finding(
            "dead-workers",
            Severity.ERROR,
            f"{who} is gone and still owns {row.runs} workflows",
            "Start a worker of any version on this schema: its sweep frees them.",
            row.sample,
        )
    ]


def _stranded(row: Any) -> list[Finding]:
    if row.version is None:
        what = f"{row.runs} workflows wait, and no version is the current one"
        remedy = "`everstep version list`, then `everstep version promote VERSION`."
    elif row.begun:
        what = f"{row.runs} workflows belong to version {row.version}, and no live worker runs it"
        remedy = f"Start a worker with EVERSTEP_VERSION={row.version}; they go on where they were."
    else:
        what = f"{row.runs} workflows wait for the current version {row.version}, and no live worker runs it"
        remedy = f"Start a worker with EVERSTEP_VERSION={row.version}, or `everstep version promote` another."
    return [Finding("stranded", Severity.ERROR, what, remedy, row.sample)]


def _unclaimed(row: Any) -> list[Finding]:
    return [
        Finding(
            "unclaimed",
            Severity.WARNING,
            f"{row.runs} workflows {row.name} on queue {row.queue} are ready since "
            f"{row.since:%Y-%m-%d %H:%M:%S}, and workers of version {row.version} have room",
            "Check that their App has a workflow of this name, and that one of them listens to this queue.",
            row.sample,
        )
    ]


def _paused(row: Any) -> list[Finding]:
    return [
        Finding(
            "paused",
            Severity.WARNING,
            f"queue {row.queue} is paused, with {row.runs} workflows ready on it",
            f"`everstep queue resume {row.queue}`, if nobody wants it paused.",
        )
    ]


def _horizon(row: Any) -> list[Finding]:
    return [
        Finding(
            "horizon",
            Severity.WARNING,
            f"{row.what}: dead rows pile up behind it, and claims slow down",
            f"End it if nobody needs it: {row.cure};",
        )
    ]


# Statement of doctor.sql: the limit it takes, and who judges its rows.
_QUESTIONS: dict[str, tuple[str, Callable[[Any], list[Finding]]]] = {
    "server": ("", _server),
    "migrations": ("", _migration),
    "orphans": ("grace", _orphan),
    "stranded": ("", _stranded),
    "unclaimed": ("patience", _unclaimed),
    "paused": ("", _paused),
    "horizon": ("horizon", _horizon),
}


def _privileges(refused: dict[str, str]) -> list[Finding]:
    """One finding per reason, with the statements it stops."""
    reasons = Counter(refused.values())
    return [
        Finding(
            "privileges",
            Severity.ERROR,
            f"{reason}: {count} statements would fail ({', '.join(n for n, r in refused.items() if r == reason)})",
            "GRANT what is missing to this role, or connect as the role that ran `everstep migrate`.",
        )
        for reason, count in reasons.most_common()
    ]


def _invariant(broken: Broken) -> Finding:
    if broken.invariant == "I13":
        # A step that was called and given up leaves the same gap as a lost checkpoint.
        return Finding(
            broken.invariant,
            Severity.WARNING,
            broken.what,
            "Nothing, if its code gives up steps it has called (wait_for, cancelled tasks); else report it.",
            broken.workflow_id,
        )
    return Finding(
        broken.invariant,
        Severity.ERROR,
        broken.what,
        "The engine never leaves this behind. Keep a copy of the workflow's rows (run, workflow, checkpoint), "
        "find out who else writes to these tables, and report it.",
        broken.workflow_id,
    )
