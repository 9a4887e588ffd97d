"""The rules of a random story: what may happen next, and to whom. Telling it is left to `telling`."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from everstep.store.models import CheckpointKind, Ending
from support.oracle import MAX_CRASHES
from support.rows import SUCCEEDED
from support.story import Claim
from support.telling_mail import TellingMail
from support.telling_workers import TellingWorkers

PICK = st.integers(0, 11)
IDS = ("a", "b", "c", "d", "e", "f", "g", "h")
SECONDS = st.integers(1, 20)


class Story(TellingWorkers, TellingMail, RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        for id_ in IDS[:5]:
            self.start_one(id_, dedup="key" if id_ == "a" else None)
        for _ in range(2):
            self.join_one()
            self.take(self.workers, 2, suspect=False)

    @invariant()
    def the_tables_are_as_the_oracle_says(self) -> None:
        self.check()

    def teardown(self) -> None:
        """Whoever is gone is gone; somebody sweeps; nothing may be wrong then."""
        if sys.exc_info()[0] is not None:
            return  # it has failed already, and that is what is to be shown
        self.pass_time(100)
        self.join_one()
        self.sweep_up()
        self.wake_whom_it_is_time_for()
        self.check()
        assert self.engine.fsck() == []

    # From outside.

    @rule(pick=PICK, how=st.sampled_from(["", "delayed", "with a key", "with a key"]))
    def start(self, pick: int, how: str) -> None:
        id_ = choose([*(i for i in IDS if i not in self.oracle.workflows), "a"], pick)
        self.start_one(id_, 5.0 * (how == "delayed"), "key" if how == "with a key" else None)

    def to_restart(self) -> list[str]:
        """What did not succeed; first what had taken a message."""
        failed = {i: w for i, w in self.oracle.workflows.items() if w.status > SUCCEEDED}
        return [i for i, w in failed.items() if any(m.taken_at for m in w.mail)] or list(failed)

    @precondition(lambda self: self.to_restart())
    @rule(pick=PICK)
    def restart(self, pick: int) -> None:
        self.restart_one(choose(self.to_restart(), pick))

    def to_cancel(self) -> list[str]:
        """What nobody has cancelled yet, and one that has finished; not so often that little is left."""
        finished = [i for i in self.oracle.workflows if i not in self.oracle.runs]
        under_way = [i for i, run in self.oracle.runs.items() if not run.cancel]
        return under_way + finished[:1] if len(under_way) > 3 else []

    @precondition(lambda self: self.to_cancel())
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self.cancel_one(choose(self.to_cancel(), pick))

    @precondition(lambda self: self.oracle.workflows)
    @rule(pick=PICK, dies=st.sampled_from([False, False, True]))
    def send(self, pick: int, *, dies: bool) -> None:
        self.post(choose(self.oracle.workflows, pick), wakes=not dies)

    @precondition(lambda self: self.wakes)
    @rule()
    def wake(self) -> None:
        self.deliver()

    # Time, and who looks at it.

    @precondition(lambda self: any(run.wake_at for run in self.oracle.runs.values()))
    @rule(seconds=SECONDS)
    def tick(self, seconds: int) -> None:
        self.say(f"{seconds} s pass")
        self.pass_time(seconds)
        self.did("tick")

    @precondition(lambda self: self.oracle.due())
    @rule()
    def wake_due(self) -> None:
        self.wake_whom_it_is_time_for()

    @precondition(lambda self: self.oracle.forgotten() or self.oracle.expired())
    @rule()
    def sweep(self) -> None:
        self.sweep_up()

    # Workers come and go.

    @precondition(lambda self: len(self.live()) < 2)
    @rule(limit=st.integers(1, 3))
    def join(self, limit: int) -> None:
        self.join_one()
        self.take(self.workers, limit, suspect=False)

    def claimable(self) -> list[bool]:
        """Of whom there are any: the unsuspected, the suspects."""
        return [suspect for suspect in (False, True) if self.oracle.claimable(suspect=suspect)]

    @precondition(lambda self: self.live() and self.claimable())
    @rule(pick=PICK, limit=st.integers(1, 3))
    def claim(self, pick: int, limit: int) -> None:
        self.take(choose(self.live(), pick), limit, suspect=choose(self.claimable(), pick))

    def to_beat(self) -> list[int]:
        """Workers whose lease is half over, and those to be told of a cancellation."""
        leases = self.oracle.leases.items()
        told = {run.worker for run in self.oracle.runs.values() if run.cancel}
        late = [k for k, until in leases if self.oracle.live(k) and until - self.oracle.now < 8]
        return late + [k for k in self.oracle.leases if k in told]

    @precondition(lambda self: self.to_beat())
    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        self.beat_one(choose(self.to_beat(), pick))

    @precondition(lambda self: self.held_by_the_living())
    @rule(pick=PICK, how=st.sampled_from(["kill", "freeze", "freeze", "leave", "leave"]))
    def go(self, pick: int, how: str) -> None:
        """A worker leaves, is killed, or freezes and wakes up later; meanwhile somebody has what it held."""
        worker, kept = choose(self.held_by_the_living(), pick).worker, list(self.claims)
        if how == "leave":
            self.leave(worker)
            return
        self.fall_silent(worker)
        if how == "freeze":
            self.claims = kept
        self.did(how)

    @precondition(lambda self: self.held_by_the_living())
    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        """A worker gives a workflow back and claims it again: what it said before is void."""
        claim = choose(self.held_by_the_living(), pick)
        self.give_back_one(claim)
        self.take(claim.worker, 20, suspect=self.oracle.runs[claim.id].crashes >= 3)

    @precondition(lambda self: self.held_by_the_living())
    @rule(pick=PICK)
    def crash_in_a_row(self, pick: int) -> None:
        """Whoever claims it dies, until it is given up or has got further."""
        id_ = choose(self.held_by_the_living(), pick).id
        for _ in range(MAX_CRASHES + 1):
            if not self.kill_whoever_has(id_):
                return

    # What a workflow does.

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, again=st.booleans())
    def record(self, pick: int, *, again: bool) -> None:
        claim = choose(self.fresh(), pick)
        assert self.write(claim, CheckpointKind.STEP) == "written"
        self.did("record")
        if again:
            self.record_again(claim)

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, ending=st.sampled_from([Ending.SUCCEEDED, Ending.FAILED]))
    def end(self, pick: int, ending: Ending) -> None:
        claim = choose(self.fresh(), pick)
        self.finish(claim, Ending.CANCELLED if self.oracle.runs[claim.id].cancel else ending)

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, seconds=SECONDS)
    def sleep(self, pick: int, seconds: int) -> None:
        cancelled = [c for c in self.fresh() if self.oracle.runs[c.id].cancel]
        claim = choose(cancelled or self.fresh(), pick)
        self.write(claim, CheckpointKind.SLEEP)
        self.park(claim, seconds, "sleep", -1)

    @precondition(lambda self: self.fresh())
    @rule(
        pick=PICK,
        meanwhile=st.sampled_from(["nothing", "send", "send and wake", "send and die"]),
    )
    def listen(self, pick: int, meanwhile: str) -> None:
        self.listen_to(choose(self.has_mail() or self.fresh(), pick), meanwhile)

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK)
    def lose_a_wake_up(self, pick: int) -> None:
        """The sender dies before it wakes anybody, and somebody sweeps."""
        self.listen_to(choose(self.fresh(), pick), "send and die")
        self.sweep_up()

    @precondition(lambda self: any(len(c.id) == 1 for c in self.fresh()))
    @rule(pick=PICK)
    def start_a_child(self, pick: int) -> None:
        self.start_child_of(choose([c for c in self.fresh() if len(c.id) == 1], pick))

    def awaited(self) -> list[tuple[Claim, str]]:
        """Who may await whom: those that have finished, if any have."""
        children = [i for i in self.oracle.workflows if "/" in i]
        finished = [i for i in children if i not in self.oracle.runs]
        return [(c, child) for child in finished or children for c in self.fresh() if c.id != child]

    @precondition(lambda self: self.awaited())
    @rule(pick=PICK)
    def await_a_child(self, pick: int) -> None:
        self.await_end_of(*choose(self.awaited(), pick))

    @precondition(lambda self: self.stale())
    @rule(pick=PICK, what=st.sampled_from(["record", "end", "park", "claim"]))
    def write_late(self, pick: int, what: str) -> None:
        """Who was frozen, or is late, goes on as if nothing had happened; first who has it again, at a later epoch."""
        runs = self.oracle.runs
        again = [c for c in self.stale() if c.id in runs and runs[c.id].worker == c.worker]
        claim = choose(again or self.stale(), pick)
        if what == "end":
            self.finish(claim, Ending.SUCCEEDED)
        elif what == "claim" and not self.oracle.live(claim.worker):
            self.take(claim.worker, 3, suspect=False)
        elif what == "record":
            assert self.write(claim, CheckpointKind.STEP) in ("fenced", "finished")
        else:
            self.park(claim, None, "sleep", -1)
        self.claims.remove(claim)  # whoever is told that it is late leaves it alone
        self.did("write late")


def choose(among: Any, pick: int) -> Any:
    options = sorted(among) if not isinstance(among, list) else among
    return options[pick % len(options)]
