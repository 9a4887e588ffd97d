"""Kubernetes Events of a DurableApp: what changed, once, for people who run `kubectl describe`.

Pure. An Event's name is a hash of what it says, so that a repetition raises a count.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from everstep_operator import names
from everstep_operator.planning.actions import (
    Action,
    DeclareDead,
    DeleteDeployment,
    DeleteJob,
    ScaleDeployment,
    SetRouting,
)
from everstep_operator.reasons import Reason

_TOLD = ("Reconciling", "DatabaseReachable", "SchemaMigrated", "Stalled")
_BAD = frozenset({Reason.MIGRATION_FAILED, Reason.MIGRATION_BLOCKED})


def events(
    body: Mapping[str, Any],
    status: Mapping[str, Any],
    done: tuple[Action, ...],
    now: datetime,
) -> list[dict[str, Any]]:
    """What happened between the status in `body` and the new one."""
    told = [note for action in done if (note := _note(action))]
    told += _transitions(body.get("status") or {}, status)
    return [_event(body, kind, reason, message, now) for kind, reason, message in told]


def _transitions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    before = {c["type"]: (c["status"], c["reason"]) for c in old.get("conditions") or ()}
    told: dict[tuple[str, str], str] = {}  # one sentence once, and as a warning if any part warns
    for condition in new.get("conditions") or ():
        kind, now = condition["type"], (condition["status"], condition["reason"])
        # Unknown says again why something else waits.
        if kind not in _TOLD or before.get(kind) == now or now[0] == "Unknown":
            continue
        bad = now[0] == ("True" if kind == "Stalled" else "False") and (
            kind in ("Stalled", "DatabaseReachable") or now[1] in _BAD
        )
        if kind != "Stalled" or bad:
            said = (now[1], condition["message"])
            told[said] = "Warning" if bad else told.get(said, "Normal")
    return [(kind, reason, message) for (reason, message), kind in told.items()]


def _note(action: Action) -> tuple[str, str, str] | None:
    match action:
        case SetRouting(version):
            return "Normal", "Promoted", f"new workflows go to {version}"
        case ScaleDeployment(name, replicas, why):
            return "Normal", "Scaled", f"Deployment {name} to {replicas}: {why}"
        case DeleteDeployment(name, why):
            return "Normal", "Deleted", f"Deployment {name}: {why}"
        case DeleteJob(name, why):
            return "Normal", "Deleted", f"Job {name}: {why}"
        case DeclareDead(pod):
            return "Normal", "WorkerDead", f"pod {pod} is gone: its workflows run elsewhere"
        case _:
            return None


def _event(
    body: Mapping[str, Any], kind: str, reason: str, message: str, now: datetime
) -> dict[str, Any]:
    meta = body["metadata"]
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = names.fingerprint([meta["uid"], reason, message], 16)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
        "involvedObject": {
            **{key: body[key] for key in ("apiVersion", "kind")},
            **{key: meta[key] for key in ("name", "namespace", "uid")},
        },
        "type": kind,
        "reason": reason,
        "message": message[:1000],
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "reportingInstance": "",
    }
