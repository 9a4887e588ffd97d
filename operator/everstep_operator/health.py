"""`/livez`, `/readyz` and `/metrics` of the operator itself.

`/livez` fails when the process cannot do its work any more: a loop that stands still, or lists and
watches that the API does not answer or that deliver nothing. Being a standby is healthy.
"""

import time
from dataclasses import dataclass, field

from aiohttp import web

from everstep_operator.lease import Lease
from everstep_operator.reconcile import Reconciler

_LOOP_LIMIT = 60.0
_SILENT_RESYNCS = 2


@dataclass(slots=True)
class Health:
    reconciler: Reconciler
    lease: Lease
    port: int
    acting: bool = False
    """Whether this replica handles objects; the other one waits for the Lease."""
    _runner: web.AppRunner | None = field(default=None)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def problem(self, now: float) -> str | None:
        """Why a restart would help, if it would."""
        moved = self.reconciler.moved if self.acting else self.lease.moved
        if now - moved > _LOOP_LIMIT:
            return f"the loop has not turned for {now - moved:.0f} s"
        if not self.acting:
            return None
        limit = _SILENT_RESYNCS * self.reconciler.settings.resync_seconds
        return self.reconciler.freshness.problem(now, limit)

    async def _livez(self, _request: web.Request) -> web.Response:
        problem = self.problem(time.monotonic())
        return web.Response(text=problem or "ok", status=503 if problem else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        problem = self.problem(time.monotonic())
        text = problem or ("acting" if self.acting else "standby")
        return web.Response(text=text, status=503 if problem else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        metrics = self.reconciler.metrics
        metrics.leader.set(self.acting)
        body = metrics.render()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})
