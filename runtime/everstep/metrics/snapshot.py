"""What the sampler found, as a value that the exporter may show for a while.

Every reading carries the moment it becomes too old, by this process's own clock, and the whole its moment the
ticket runs out; so a pod that is cut off stops showing global metrics by itself, before another one begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric as Family

from everstep.metrics.catalogue import Query


def rendered(families: Iterable[Family]) -> bytes:
    """Families in the text format."""
    return generate_latest(_Families(families))


@dataclass(frozen=True)
class _Families:
    """What prometheus_client renders: something that collects."""

    families: Iterable[Family]

    def collect(self) -> Iterable[Family]:
        return self.families


@dataclass(frozen=True)
class Reading:
    """What one statement said, as it is exposed. `until`: when it is too old to be shown (boottime)."""

    text: bytes
    until: float


@dataclass(frozen=True)
class Snapshot:
    """All readings of the holder of the ticket. `held_until` by boottime."""

    held_until: float = float("-inf")
    readings: Mapping[Query, Reading] = field(default_factory=lambda: MappingProxyType({}))

    def held(self, now: float) -> bool:
        return now < self.held_until

    def text(self, now: float) -> bytes:
        """The global metrics, as far as they are fresh; nothing where another pod shows them."""
        if not self.held(now):
            return b""
        return b"".join(reading.text for reading in self.readings.values() if now < reading.until)


EMPTY = Snapshot()
