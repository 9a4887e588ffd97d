"""Tells the engine and the oracle what workers do: join, claim, beat, fall silent, leave, and sweep up after others."""

from __future__ import annotations

from typing import Any

from everstep.store.models import Ending, Lane
from everstep.store.workers import WorkerState
from support.oracle import LEASE_SECONDS, MAX_CRASHES
from support.protocol import rescue
from support.story import Claim
from support.telling import Telling, agree


class TellingWorkers(Telling):
    workers = 0

    def live(self) -> list[int]:
        return [k for k in self.oracle.leases if self.oracle.live(k)]

    def held_by_the_living(self) -> list[Claim]:
        return [claim for claim in self.fresh() if self.oracle.live(claim.worker)]

    def join_one(self) -> None:
        self.workers += 1
        self.say(f"worker {self.workers} joins")
        self.engine.register(self.workers)
        self.oracle.leases[self.workers] = self.oracle.now + LEASE_SECONDS
        self.did("join")

    def take(self, worker: int, limit: int, *, suspect: bool) -> None:
        """A claim, and the logs of what it got."""
        free = self.oracle.claimable(suspect=suspect) if self.oracle.live(worker) else []
        ready = [self.oracle.runs[id_].ready_at for id_ in free]
        # All that became ready together or none: which of them would be first is the index's business.
        while limit < len(free) and ready[limit - 1] == ready[limit]:
            limit += 1
        self.say(f"worker {worker} claims up to {limit} {'suspects' if suspect else 'workflows'}")
        claims = self._claim(worker, limit, suspect=suspect)
        agree({c.id for c in claims}, set(free[:limit]))
        if not claims:
            return
        session, ids = self.engine.session, [c.id for c in claims]
        logs = self.engine.do(self.engine.runs(worker).load(session, ids))
        for c in sorted(claims, key=lambda c: c.id):
            agree((c.epoch, c.crashes, c.cancel), self.oracle.claim(worker, c.id))
            agree({r.seq for r in logs[c.id]}, set(self.oracle.workflows[c.id].log))
            self.claims.append(Claim(worker, c.id, c.epoch, len(logs[c.id])))
        self.did("claim a suspect" if suspect else "claim")

    def _claim(self, worker: int, limit: int, *, suspect: bool) -> list[Any]:
        runs, session = self.engine.runs(worker), self.engine.session
        lane = Lane("default", 1)
        return self.engine.do(
            runs.claim(session, lane, names=["w"], cursor=None, limit=limit, suspect=suspect)
        )

    def beat_one(self, worker: int) -> None:
        """A heartbeat; what it says was cancelled is ended."""
        self.say(f"worker {worker} beats")
        found = self.engine.beat(worker)
        agree(found, self.oracle.beat(worker))
        self.did("beat", effect=found is not None)
        for claim in self.fresh():
            if found and claim.worker == worker and claim.id in found:
                self.finish(claim, Ending.CANCELLED)

    def leave(self, worker: int) -> None:
        self.say(f"worker {worker} leaves")
        session = self.engine.session
        released = self.engine.do(self.engine.runs(worker).release(session))
        agree(released, self.oracle.release(worker))
        self.engine.do(self.engine.workers(worker).set_state(session, WorkerState.DEAD))
        self.oracle.dead.add(worker)
        self.did("leave")

    def give_back_one(self, claim: Claim) -> None:
        """As a worker does that does not know of it: the reply to its claim was lost."""
        self.say(f"{claim} gives it back")
        runs, session = self.engine.runs(claim.worker), self.engine.session
        released = self.engine.do(runs.release_strays(session, [claim.id]))
        agree(released, self.oracle.release(claim.worker, [claim.id]))
        self.did("give back")

    def fall_silent(self, worker: int) -> None:
        """It is killed, or frozen, for longer than its lease; the others beat on and sweep."""
        self.say(f"worker {worker} falls silent")
        self.pass_time(LEASE_SECONDS + 1)
        self.claims = [claim for claim in self.claims if claim.worker != worker]
        for other in self.live():
            if other != worker:
                agree(self.engine.beat(other), self.oracle.beat(other))
        self.sweep_up()

    def kill_whoever_has(self, id_: str) -> bool:
        """Whether it can be claimed and crash somebody once more."""
        holders = [c for c in self.held_by_the_living() if c.id == id_]
        if not holders:
            return False
        self.fall_silent(holders[0].worker)
        self.did("kill")
        if id_ not in self.oracle.runs:
            return False
        if not self.live():
            self.join_one()
        self.take(self.live()[0], 20, suspect=self.oracle.runs[id_].crashes >= 3)
        return True

    def sweep_up(self) -> None:
        self.say("somebody sweeps")
        engine, session = self.engine, self.engine.session
        leases = engine.do(engine.workers(0).leases(session))
        suspects = [lease.worker_id for lease in leases if lease.expired]
        dead = engine.do(engine.workers(0).declare_dead(session, suspects)) if suspects else []
        agree(len(dead), self.oracle.declare_dead())
        rescued = engine.do(rescue(engine.runs(0), session))
        agree(rescued, self.oracle.rescue())
        buried = engine.do(engine.runs(0).bury(session, MAX_CRASHES, b"{}"))
        agree(buried, self.oracle.bury())
        forgotten = engine.do(engine.messages.wake_forgotten(session))
        agree(forgotten, self.oracle.wake_forgotten())
        self.did("declare dead", effect=dead)
        self.did("rescue", effect=rescued)
        self.did("bury", effect=buried)
        self.did("wake forgotten", effect=forgotten)

    def wake_whom_it_is_time_for(self) -> None:
        self.say("timers that are due wake whom they are for")
        woken = self.engine.do(self.engine.runs(0).wake_due(self.engine.session))
        agree(woken, self.oracle.wake_due())
        self.did("wake due", effect=woken)
