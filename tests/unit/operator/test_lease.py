"""The Lease: one holder, take-over by one's own clock, and an honest end."""

from dataclasses import dataclass, field
from typing import Any

from everstep_operator.kube import Kind, KubeError
from everstep_operator.lease import Lease


@dataclass
class Store:
    """One object with optimistic writes, as the API server keeps it."""

    body: dict[str, Any] | None = None
    version: int = 0
    broken: bool = False
    written: list[str] = field(default_factory=list)

    async def get(self, _kind: Kind, _namespace: str, _name: str) -> dict[str, Any]:
        if self.broken:
            raise KubeError(0, "no answer")
        if self.body is None:
            raise KubeError(404, "not found")
        meta = {**self.body["metadata"], "resourceVersion": str(self.version)}
        return {**self.body, "metadata": meta, "spec": dict(self.body["spec"])}

    async def create(self, _kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        if self.body is not None:
            raise KubeError(409, "there already")
        return self._put(body)

    async def replace(self, _kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise KubeError(409, "changed")
        return self._put(body)

    def _put(self, body: dict[str, Any]) -> dict[str, Any]:
        self.body, self.version = body, self.version + 1
        self.written.append(body["spec"]["holderIdentity"])
        return body


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def lease(store: Store, identity: str, clock: Clock) -> Lease:
    return Lease(store, "ops", identity, clock=clock)  # type: ignore[arg-type]


async def test_the_first_takes_it_and_the_second_waits() -> None:
    store, clock = Store(), Clock()
    assert await lease(store, "one", clock).attempt()
    assert not await lease(store, "two", clock).attempt()


async def test_a_holder_that_stopped_is_followed_after_the_whole_duration() -> None:
    store, clock = Store(), Clock()
    two = lease(store, "two", clock)
    assert await lease(store, "one", clock).attempt()
    assert not await two.attempt()
    clock.now = 15.0
    assert not await two.attempt()
    clock.now = 15.1
    assert await two.attempt()
    assert store.body
    assert store.body["spec"]["leaseTransitions"] == 2


async def test_a_holder_that_renews_is_never_followed() -> None:
    store, clock = Store(), Clock()
    one, two = lease(store, "one", clock), lease(store, "two", clock)
    for _ in range(20):
        assert await one.attempt()
        assert not await two.attempt()
        clock.now += 14.0


async def test_a_released_lease_is_free_at_once() -> None:
    store, clock = Store(), Clock()
    one, two = lease(store, "one", clock), lease(store, "two", clock)
    one.held = await one.attempt()
    await one.release()
    assert await two.attempt()


async def test_a_write_that_lost_the_race_is_a_no() -> None:
    store, clock = Store(), Clock()
    one = lease(store, "one", clock)
    assert await one.attempt()
    found = await store.get(None, "", "")  # type: ignore[arg-type]
    assert await one.attempt()
    assert not await one._write(found)
