"""The Lease that lets two replicas run and one act.

A holder renews; a follower takes over when it has seen the Lease unchanged for its whole duration
on its own clock, so that clocks that disagree do no harm. A holder that cannot renew in time
raises `LeaseLostError` and the process ends: two writers are worse than none.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from everstep_operator.kube import LEASES, Kube, KubeError

log = logging.getLogger("everstep.operator.lease")

NAME = "everstep-operator"


class LeaseLostError(Exception):
    """Somebody else may act now, so this process must not."""


@dataclass(slots=True)
class Lease:
    kube: Kube
    namespace: str
    identity: str
    duration: float = 15.0
    interval: float = 4.0
    clock: Callable[[], float] = time.monotonic
    held: bool = False
    moved: float = field(default_factory=time.monotonic)
    """When the lease loop last turned."""
    _seen: tuple[str, float] = ("", 0.0)

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        while not self.held:
            self.moved = time.monotonic()
            try:
                self.held = await self.attempt()
            except KubeError as error:
                log.warning("lease %s: %s", NAME, error)
            if not self.held:
                await asyncio.sleep(self.interval / 2)
        log.info("lease %s/%s is held by %s", self.namespace, NAME, self.identity)

    async def keep(self) -> None:
        """Renew until that fails for too long."""
        renewed = self.clock()
        while True:
            await asyncio.sleep(self.interval)
            self.moved = time.monotonic()
            try:
                if not await self.attempt():
                    self.held = False
                    raise LeaseLostError(f"another replica holds lease {NAME}")
                renewed = self.clock()
            except KubeError as error:
                log.warning("renewing lease %s: %s", NAME, error)
                if self.clock() - renewed > self.duration - self.interval:
                    self.held = False
                    raise LeaseLostError(f"lease {NAME} could not be renewed") from error

    async def release(self) -> None:
        """Let the next replica begin at once."""
        if not self.held:
            return
        self.held = False
        try:
            found = await self.kube.get(LEASES, self.namespace, NAME)
            if found["spec"].get("holderIdentity") == self.identity:
                found["spec"]["holderIdentity"] = ""
                await self.kube.replace(LEASES, found)
        except KubeError as error:
            log.warning("releasing lease %s: %s", NAME, error)

    async def attempt(self) -> bool:
        """Take or renew the Lease if that is allowed now; a lost race is a no."""
        try:
            found = await self.kube.get(LEASES, self.namespace, NAME)
        except KubeError as error:
            if not error.gone:
                raise
            return await self._write(None)
        return await self._write(found) if self._free(found) else False

    def _free(self, found: dict[str, Any]) -> bool:
        spec = found.get("spec") or {}
        if spec.get("holderIdentity") in (self.identity, "", None):
            return True
        version = found["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self.clock())
        return self.clock() - self._seen[1] > self.duration

    async def _write(self, found: dict[str, Any] | None) -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((found or {}).get("spec") or {})
        if spec.get("holderIdentity") != self.identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec |= {
            "holderIdentity": self.identity,
            "renewTime": now,
            "leaseDurationSeconds": int(self.duration),
        }
        meta = {"name": NAME, "namespace": self.namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta}
        try:
            if found is None:
                await self.kube.create(LEASES, {**body, "spec": spec})
            else:
                # The resourceVersion makes the write fail if somebody was quicker.
                await self.kube.replace(LEASES, {**found, "spec": spec})
        except KubeError as error:
            if not error.conflict:
                raise
            return False
        return True
