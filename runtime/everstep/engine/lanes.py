"""Which lane is claimed from next. Decides by values alone; the claimer asks the database.

A lane is a queue and a priority. Within a queue a workflow of priority p counts as p minutes younger than it is,
and the oldest goes first: priority is a head start, and nothing waits for ever. Between the queues of a worker
there is no order: they take turns, and share what room there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

from everstep.store.models import Lane, Look

PRIORITIES = range(4)

AGEING = timedelta(minutes=1)
"""Head start of a priority over the next one; migrations/0004_queues.sql has the same."""

SLACK = timedelta(seconds=1)
"""Order between priorities is kept to this, so that claims do not shrink to single rows where lanes interleave."""

WIDEST = 31
"""Strides double up to this many times, to 68 years: a sum with them is still a date."""

SKEW = timedelta(seconds=5)
"""How far behind the newest claimed `ready_at` a commit may still make a workflow visible."""

FULL_LOOK_SECONDS = 10.0

RARER_THAN_IN_VAIN = 10
"""A claim that found nothing of its worker's in a lane is followed by a pause of so many times its length, there."""

MOST_IN_VAIN_SECONDS = 2.0

DEAR_SECONDS = 0.05
"""What costs less than this in vain is no burden, and may only have been another worker that was quicker."""


class Cursors:
    """From which `ready_at` on each lane is looked at.

    Just below the newest that was claimed, so that claims stay quick while a long transaction elsewhere keeps dead
    index entries alive. Every ten seconds one round looks at whole lanes, in case something became visible behind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: dict[tuple[str, int], datetime] = {}
        self._round: dict[tuple[str, int], datetime] = {}
        self._looked = -FULL_LOOK_SECONDS
        self._paused: dict[tuple[str, int], float] = {}

    def begin(self, queues: Sequence[str]) -> list[Look]:
        """Where to look in this round."""
        now = self._clock()
        self._paused = {lane: due for lane, due in self._paused.items() if due > now}
        self._round = dict(self._newest)
        if now - self._looked >= FULL_LOOK_SECONDS:
            self._looked = now
            self._round = {}
        return [
            Look(q, p, self.of(q, p))
            for q in queues
            for p in PRIORITIES
            if (q, p) not in self._paused
        ]

    def of(self, queue: str, priority: int) -> datetime | None:
        """Where to begin, as far as this round has got; None: at the beginning."""
        return self._round.get((queue, priority))

    def in_vain(self, queue: str, priority: int, seconds: float) -> None:
        """A claim that took so long found a lane full of what is for others: another version, other functions."""
        if seconds >= DEAR_SECONDS:
            pause = min(seconds * RARER_THAN_IN_VAIN, MOST_IN_VAIN_SECONDS)
            self._paused[queue, priority] = self._clock() + pause

    def rest(self) -> float | None:
        """Seconds until the next lane that is left out now is looked at again."""
        return min((due - self._clock() for due in self._paused.values()), default=None)

    def claimed(self, queue: str, priority: int, newest: datetime) -> None:
        """A claim took everything up to about `newest`."""
        lane = queue, priority
        self._round[lane] = newest - SKEW
        self._newest[lane] = max(self._newest.get(lane, newest - SKEW), newest - SKEW)


@dataclass(eq=False)
class Offer:
    """What a queue has to claim in this round: the oldest of each priority, and the queue's own rules.

    `limited`: its workers agree under a lock on what they claim. `suspects`: priorities (None: with a partition) in
    which some workflow keeps crashing its workers.
    """

    queue: str
    limited: bool
    worker_concurrency: int | None
    heads: dict[int, datetime]
    suspects: list[int | None]
    in_vain: int = field(default=0, repr=False)
    """So many claims, one after the other, have found nothing."""

    def next(self) -> tuple[int, datetime | None] | None:
        """The priority whose oldest is due first, and until which `ready_at` it goes before the others."""
        if not self.heads:
            return None
        due = sorted((head + AGEING * priority, priority) for priority, head in self.heads.items())
        (_, first), *others = due
        return first, others[0][0] - AGEING * first + self._slack() if others else None

    def took(
        self, priority: int, until: datetime | None, newest: datetime | None, *, full: bool
    ) -> None:
        """A claim of that lane came back. `newest`: the last it claimed. `full`: as many as it asked for."""
        self.in_vain = self.in_vain + 1 if newest is None else 0
        if newest is not None and full:
            self.heads[priority] = newest
        elif until is None:
            del self.heads[priority]
        else:
            self.heads[priority] = until

    def _slack(self) -> timedelta:
        # Where claims find nothing (what is there is for other workers), lanes are crossed in growing strides.
        return SLACK * (1 << min(max(0, self.in_vain - len(PRIORITIES)), WIDEST))


def offers(lanes: Iterable[Lane], in_vain: Mapping[str, int] | None = None) -> Iterator[Offer]:
    """What each queue offers. `in_vain`: of queues whose lanes the round before did not get through, its claims in vain."""
    for queue, group in groupby(
        sorted(lanes, key=lambda lane: lane.queue), key=lambda lane: lane.queue
    ):
        own = list(group)
        yield Offer(
            queue=queue,
            limited=any(lane.limited for lane in own),
            worker_concurrency=own[0].worker_concurrency,
            heads={
                lane.priority: lane.oldest
                for lane in own
                if lane.priority is not None and lane.oldest is not None
            },
            suspects=[lane.priority for lane in own if lane.suspects],
            in_vain=(in_vain or {}).get(queue, 0),
        )
