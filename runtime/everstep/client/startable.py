"""What `client.start` takes: workflows by the number of their arguments, and the options of a start.

The protocols exist for type checkers: with them the arguments of `client.start(workflow, …)` are checked
against the workflow's own parameters, defaults included.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypedDict, TypeVar

from everstep.client.debounce import Debounce
from everstep.codec import JSON, encode_plain
from everstep.durations import seconds_of
from everstep.errors import PayloadError, UsageError
from everstep.ids import new_id
from everstep.queues import Queue, queue_name
from everstep.settings import checked_version
from everstep.store.models import Debounced, Start
from everstep.texts import brief, storable

A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
D_contra = TypeVar("D_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_MAX_ATTRIBUTES = 65_536
_NOT_DEBOUNCED = ("id", "dedup", "delay", "run_at", "on_existing", "on_duplicate")
_POLICIES = {"on_existing": ("return", "reject", "restart"), "on_duplicate": ("reject", "return")}
_NEEDS = {"on_existing": "id", "on_duplicate": "dedup"}
_NUL = re.compile(rb"(?<!\\)(\\\\)*\\u0000")


class StartOptions(TypedDict, total=False):
    """Options of a start, all by keyword.

    `id`: the idempotency key, 1 to 512 bytes; by default a new UUIDv7. `queue`: by default the workflow's.
    `partition`: whose it is, of those that share the queue; they get turns, and may have limits each.
    `priority`: 0 (first) to 3 (last), by default 1. `delay`: seconds or timedelta before it may be claimed.
    `run_at`: an instant before which it may not be claimed; give this or `delay`.
    `attributes`: a JSON object to filter by. `version`: the code version it is pinned to from the start.
    `timeout`: from start to finish; `deadline`: the same as an instant; of both, the earlier one holds. Past it
    the workflow is cancelled, wherever it is, and so are its children.
    `dedup`: at most one open workflow of a queue has this key; `on_duplicate` says what a second start gets:
    "reject" (DuplicateWorkflowError, the default) or "return" (a handle of the first).
    `on_existing`: what the id of an earlier workflow with the same name and input gives: "return" (its handle,
    the default), "reject" (WorkflowExistsError), or "restart" (the same, but begun anew if it failed).
    `debounce`: a start with the same key, while this one waits to begin, replaces its input; not with `id`, `dedup`,
    `delay`, `run_at` or `on_existing`.
    `connection`: a psycopg or SQLAlchemy connection in a transaction; the workflow exists if that commits.
    """

    id: str | None
    queue: str | Queue | None
    partition: str | None
    priority: int
    delay: timedelta | float
    run_at: datetime | None
    attributes: dict[str, Any] | None
    version: str | None
    timeout: timedelta | float | None
    deadline: datetime | None
    dedup: str | None
    on_duplicate: Literal["reject", "return"]
    on_existing: Literal["return", "reject", "restart"]
    debounce: Debounce | None
    connection: Any


class Takes0(Protocol[R_co]):
    """A workflow that can be started without arguments."""

    def signature(self) -> R_co: ...


class Takes1(Protocol[A_contra, R_co]):
    """A workflow that can be started with one argument."""

    def signature(self, a: A_contra, /) -> R_co: ...


class Takes2(Protocol[A_contra, B_contra, R_co]):
    """A workflow that can be started with two arguments."""

    def signature(self, a: A_contra, b: B_contra, /) -> R_co: ...


class Takes3(Protocol[A_contra, B_contra, C_contra, R_co]):
    """A workflow that can be started with three arguments."""

    def signature(self, a: A_contra, b: B_contra, c: C_contra, /) -> R_co: ...


class Takes4(Protocol[A_contra, B_contra, C_contra, D_contra, R_co]):
    """A workflow that can be started with four arguments."""

    def signature(self, a: A_contra, b: B_contra, c: C_contra, d: D_contra, /) -> R_co: ...


def check_options(options: StartOptions) -> None:
    """Raises UsageError for an option that there is not, or a policy that is none."""
    unknown = options.keys() - StartOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(sorted(StartOptions.__annotations__))
        raise UsageError(
            f"start() has no option {', '.join(sorted(unknown))}; it has {known}. "
            f"The workflow's own arguments are given by position."
        )
    for option, policies in _POLICIES.items():
        if (policy := options.get(option, policies[0])) not in policies:
            raise UsageError(f"{option} is one of {', '.join(policies)}, not {policy!r}")


def make_start(name: str, body: bytes, queue: str, options: StartOptions) -> Start:
    """A checked Start. Raises UsageError that names the option."""
    check_options(options)
    _check_together(options)
    id_ = options.get("id")
    return Start(
        id=new_id() if id_ is None else _checked_id(id_),
        name=name,
        queue=queue_name(queue if (chosen := options.get("queue")) is None else chosen),
        codec=JSON,
        input=body,
        priority=_checked_priority(options.get("priority", 1)),
        delay=seconds_of(options.get("delay", 0), "delay"),
        attributes=_checked_attributes(options.get("attributes")),
        run_at=_checked_instant(options.get("run_at"), "run_at"),
        timeout=_checked_timeout(options.get("timeout")),
        deadline=_checked_instant(options.get("deadline"), "deadline"),
        dedup=_checked_text(options.get("dedup"), "a deduplication key", 512),
        version=_checked_pin(options.get("version")),
        partition=_checked_text(options.get("partition"), "a partition", 200),
        debounce=_checked_debounce(options),
    )


def _check_together(options: StartOptions) -> None:
    """What options say about each other. Raises UsageError."""
    if options.get("delay") and options.get("run_at") is not None:
        raise UsageError("delay= and run_at= both say when it may begin: give one of them")
    if options.get("on_existing") == "restart" and options.get("connection") is not None:
        raise UsageError(
            "a restart is no part of a transaction: leave connection= or 'restart' out"
        )
    for option, about in _NEEDS.items():
        chosen = options.get(option, _POLICIES[option][0])
        alone = options.get(about) is None and options.get("debounce") is None
        if alone and chosen != _POLICIES[option][0]:
            raise UsageError(f"{option}={chosen!r} is about an earlier {about}: give {about}= too")


def _checked_debounce(options: StartOptions) -> Debounced | None:
    debounce = options.get("debounce")
    if debounce is None:
        return None
    if not isinstance(debounce, Debounce):
        raise UsageError(f"debounce= takes everstep.Debounce(key, window=…), not {debounce!r}")
    if others := sorted(option for option in _NOT_DEBOUNCED if options.get(option)):
        raise UsageError(
            f"debounce= decides when the workflow begins and which one it is, so {', '.join(others)} cannot be given "
            f"with it. For at most one open workflow with a key, whatever comes meanwhile, use dedup= alone"
        )
    return debounce.checked()


def _checked_instant(instant: datetime | None, what: str) -> datetime | None:
    if instant is None:
        return None
    if not isinstance(instant, datetime):
        raise UsageError(f"{what}= takes a datetime with a time zone, not {instant!r}")
    if instant.tzinfo is None:
        raise UsageError(
            f"{what}={instant.isoformat()} has no time zone: give it one, for example UTC"
        )
    return instant


def _checked_pin(version: str | None) -> str | None:
    """A version that a worker may have: another one would be waited for in vain."""
    text = _checked_text(version, "a version", 200)
    return None if text is None else checked_version(text)


def _checked_timeout(timeout: timedelta | float | None) -> float | None:
    return None if timeout is None else seconds_of(timeout, "timeout")


def _checked_id(workflow_id: str) -> str:
    if not isinstance(workflow_id, str):
        raise UsageError(f"a workflow id is a text, not {workflow_id!r}")
    size = len(workflow_id.encode("utf-8", "replace"))
    if not 1 <= size <= 512:
        raise UsageError(f"a workflow id has 1 to 512 bytes, not {size}")
    if not storable(workflow_id):
        raise UsageError(
            f"a workflow id holds no NUL character and no lone surrogate: {workflow_id!r}"
        )
    return workflow_id


def _checked_text(text: str | None, what: str, longest: int) -> str | None:
    if text is None:
        return None
    fits = isinstance(text, str) and storable(text) and 1 <= len(text.encode()) <= longest
    if not fits:
        raise UsageError(f"{what} is a text of 1 to {longest} bytes, not {brief(text)}")
    return text


def _checked_attributes(attributes: dict[str, Any] | None) -> dict[str, Any] | None:
    """Checked here, because one start that the database refuses would hold up its whole batch."""
    if attributes is None:
        return None
    if not isinstance(attributes, dict):
        raise UsageError(f"attributes are a dict of JSON values, not {attributes!r}")
    body = encode_plain(attributes, "attributes of a workflow", _MAX_ATTRIBUTES)
    if _NUL.search(body):
        raise PayloadError("attributes of a workflow hold a NUL character, which jsonb cannot")
    return attributes


def _checked_priority(priority: int) -> int:
    if priority not in range(4):
        raise UsageError(f"priority is 0 (first) to 3 (last), not {priority!r}")
    return priority
