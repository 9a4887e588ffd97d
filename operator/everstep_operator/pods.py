"""What the status of a pod says, in words that stay the same while nothing changes.

Pure. Kubernetes flips between several spellings of one fault and counts seconds in its messages;
a status that copied them would be rewritten all the time.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from everstep_operator import names
from everstep_operator.observed import Pod, Trouble

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_START = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_EXIT_CODES = {
    1: "an error in everstep itself, see its log",
    2: "the call is wrong: option, or a module that does not import",
    3: "the database cannot be reached or refuses the login",
    4: "the engine's schema is too old or too new for this code",
    5: "a migration failed",
    70: "the event loop stood still",
    137: "killed: out of memory, or not alive",
}


def pod(body: Mapping[str, Any]) -> Pod:
    meta = body["metadata"]
    labels = meta.get("labels") or {}
    annotations = meta.get("annotations") or {}
    ended = _ended(body)
    return Pod(
        name=meta["name"],
        version=annotations.get(names.ANNOTATION_VERSION, labels.get(names.LABEL_VERSION, "")),
        component=labels.get(names.LABEL_COMPONENT, ""),
        job=labels.get("batch.kubernetes.io/job-name"),
        created_at=moment(meta.get("creationTimestamp")),
        trouble=None if meta.get("deletionTimestamp") else trouble(body.get("status") or {}),
        report=_report(ended) if ended else None,
        finished_at=moment(ended.get("finishedAt")) if ended else None,
    )


def runs(body: Mapping[str, Any]) -> bool:
    """A pod that ended holds no lease, whether or not its object is still there."""
    return (body.get("status") or {}).get("phase") not in ("Failed", "Succeeded")


def trouble(status: Mapping[str, Any]) -> Trouble | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble("Unschedulable", condition.get("message", "no node fits"))
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    return next(filter(None, (_container(c) for c in containers)), None)


def _container(status: Mapping[str, Any]) -> Trouble | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        detail = message.rpartition("ErrImagePull: ")[2]
        plain = "" if detail.startswith("Back-off") else f": {detail[:300]}"
        return Trouble("ImagePullFailed", f"image {status.get('image')} cannot be pulled{plain}")
    if reason in _START:
        return Trouble("ContainerNotCreated", message[:300])
    last = (status.get("lastState") or {}).get("terminated")
    if last and status.get("restartCount") and not status.get("ready"):
        return Trouble("Crashing", _exit(status["name"], last))
    return None


def _exit(container: str, ended: Mapping[str, Any]) -> str:
    code = ended.get("exitCode")
    meaning = _EXIT_CODES.get(code, ended.get("reason", "")) if code is not None else ""
    said = _last_words(str(ended.get("message") or ""))
    return f"container {container} ends with code {code} ({meaning}){said and f': {said}'}"


def _last_words(log: str) -> str:
    """From the last `error: …` of everstep on, whose next line is a remedy; else the last line."""
    lines = [line.strip() for line in log.strip().splitlines()]
    began = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    return " ".join(lines[began[-1] if began else -1 :])[:400]


def _ended(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for status in (body.get("status") or {}).get("containerStatuses") or ():
        if status["name"] == names.WORKER:
            ended: Mapping[str, Any] | None = (status.get("state") or {}).get("terminated")
            return ended
    return None


def _report(ended: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON of the contract; else the end of the log, which Kubernetes puts there."""
    text = str(ended.get("message") or "").strip()
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = None
    if isinstance(decoded, dict):
        return decoded
    if ended.get("exitCode") == 0:
        return None
    return {"code": str(ended.get("reason") or "Error"), "message": _exit(names.WORKER, ended)}


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
