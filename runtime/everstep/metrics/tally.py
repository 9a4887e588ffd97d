"""Totals as they are shown: from what the database says at first, and from then on only upwards.

A database that was put back (a failover that lost commits, a restore) brings totals that step back; shown as
they are, Prometheus would take the step for a restart and count everything once more. So a tally adds up
differences and leaves out the negative ones (docs/decisions/metrics-totals.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from everstep.metrics.catalogue import Transition
from everstep.store.metrics import Total
from everstep.store.models import Ending


class Tally:
    """`begun`: (queue, workflow) pairs to show at 0 before anything happens, so that the first event is an increase."""

    def __init__(self, begun: Iterable[tuple[str, str]] = ()) -> None:
        self._seen: dict[tuple[int, str, str, int, int], Total] = {}
        self._shown: dict[tuple[int, str, str, int, int], Total] = {}
        self.update(zero for queue, name in begun for zero in _zeros(queue, name))

    def update(self, totals: Iterable[Total]) -> None:
        """Take in what the database says now."""
        for total in totals:
            key = total.key
            seen = self._seen.get(key)
            self._seen[key] = total
            if seen is None:
                self._shown[key] = total
                continue
            shown = self._shown[key]
            self._shown[key] = replace(
                shown,
                n=shown.n + max(0, total.n - seen.n),
                seconds=shown.seconds + max(0.0, total.seconds - seen.seconds),
            )

    def shown(self) -> list[Total]:
        return list(self._shown.values())


def _zeros(queue: str, name: str) -> list[Total]:
    counted = [(Transition.STARTED, name, 0), (Transition.RESCUED, name, 0)]
    counted += [(Transition.FINISHED, name, ending) for ending in Ending]
    # A claim is counted per queue, without the workflow's name.
    counted.append((Transition.CLAIMED, "", 0))
    return [Total(kind, queue, name, outcome, 0, 0, 0.0) for kind, name, outcome in counted]
