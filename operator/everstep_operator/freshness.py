"""Are the watches alive? Compare what they delivered with what a list shows.

A quiet watch and a dead one look the same from inside. But a list that shows a newer object than
the watch has delivered, and goes on doing so, proves that the watch is dead. No clock in here.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Freshness:
    _seen: dict[str, str] = field(default_factory=dict)
    _behind_since: dict[str, float] = field(default_factory=dict)

    def seen(self, key: str, version: str) -> None:
        """The watch delivered this resourceVersion."""
        self._seen[key] = version
        self._behind_since.pop(key, None)

    def listed(self, key: str, version: str, now: float) -> None:
        """A list showed this one."""
        if self._seen.get(key) == version:
            self._behind_since.pop(key, None)
        else:
            self._behind_since.setdefault(key, now)

    def lag(self, now: float) -> float:
        """For how long the watch has been behind, in seconds."""
        return max((now - since for since in self._behind_since.values()), default=0.0)

    def forget(self, key: str) -> None:
        self._seen.pop(key, None)
        self._behind_since.pop(key, None)
