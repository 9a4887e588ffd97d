"""Starts as their statements take them, and the answers as values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from everstep.store.arrays import Byteas, Floats, Jsons, SmallInts, Texts, Timestamps
from everstep.store.models import Start, Started


@dataclass(frozen=True, slots=True)
class Eager:
    """The worker that starts and claims in one statement, the names it knows, the queues it listens to."""

    me: UUID
    version: str
    names: tuple[str, ...]
    queues: tuple[str, ...]


def start_arguments(starts: Sequence[Start], eager: Eager | None) -> dict[str, object]:
    """A batch of starts as columns, ordered by id, and who may claim them at once."""
    ordered = sorted(starts, key=lambda start: start.id)
    return {
        "ids": Texts([s.id for s in ordered]),
        "names": Texts([s.name for s in ordered]),
        "queues": Texts([s.queue for s in ordered]),
        "priorities": SmallInts([s.priority for s in ordered]),
        "delays": Floats([s.delay for s in ordered]),
        "run_ats": Timestamps([s.run_at for s in ordered]),
        "timeouts": [s.timeout for s in ordered],
        "deadlines": Timestamps([s.deadline for s in ordered]),
        "dedups": Texts([s.dedup for s in ordered]),
        "versions": Texts([s.version for s in ordered]),
        "partitions": Texts([s.partition for s in ordered]),
        "codecs": SmallInts([s.codec for s in ordered]),
        "inputs": Byteas([s.input for s in ordered]),
        "attributes": Jsons(
            [None if s.attributes is None else json.dumps(s.attributes) for s in ordered]
        ),
        "me": eager.me if eager else None,
        "version": eager.version if eager else None,
        "known": list(eager.names) if eager else [],
        "listened": list(eager.queues) if eager else [],
    }


def debounced_arguments(start: Start) -> dict[str, object]:
    """One start with debounce."""
    assert start.debounce is not None
    return {
        "id": start.id,
        "name": start.name,
        "key": start.debounce.key,
        "window": start.debounce.window,
        "max_wait": start.debounce.max_wait,
        "input": start.input,
        "codec": start.codec,
        "queue": start.queue,
        "partition": start.partition,
        "priority": start.priority,
        "version": start.version,
        "deadline": start.deadline,
        "timeout": start.timeout,
        "attributes": None if start.attributes is None else json.dumps(start.attributes),
    }


def started(row: Any) -> Started:
    """What a batch came to."""
    return Started(
        existing=frozenset(row.existing),
        claimed=frozenset(row.claimed),
        duplicates=dict(zip(row.duplicates, row.holders, strict=True)),
        deadlines=dict(zip(row.limited, row.deadlines, strict=True)),
    )
