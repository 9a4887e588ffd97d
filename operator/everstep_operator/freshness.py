"""Are lists and watches alive? Two proofs that they are not, since silence alone is none.

A quiet watch and a dead one look the same from inside. So a watch is opened anew once per resync,
and whatever has not been answered by the API for longer than that is dead, whether or not there is
anything to tell. And a list that shows a newer object than the watch has delivered, and goes on
doing so, proves that what is answered does not arrive. No clock in here.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Freshness:
    _seen: dict[str, str] = field(default_factory=dict)
    _behind_since: dict[str, float] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)

    def problem(self, now: float, limit: float) -> str | None:
        """What has not been heard of for longer than `limit` seconds, if anything."""
        what, silence = self.silence(now)
        if silence > limit:
            return f"the API has not answered the {what} for {silence:.0f} s"
        if self.lag(now) > limit:
            return f"the watch has been behind the API for {self.lag(now):.0f} s"
        return None

    def expect(self, what: str, now: float) -> None:
        """From now on this request is to be answered again and again."""
        self._answered[what] = now

    def answered(self, what: str, now: float) -> None:
        if what in self._answered:
            self._answered[what] = now

    def silence(self, now: float) -> tuple[str, float]:
        """The request that has waited longest for an answer, and for how many seconds."""
        if not self._answered:
            return "", 0.0
        what = min(self._answered, key=self._answered.__getitem__)
        return what, now - self._answered[what]

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
