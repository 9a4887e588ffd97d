"""Tells each transition of a story to the engine and to the oracle: both must answer alike, and the tables agree.

Here: time, starts, ends, checkpoints and parks. `telling_workers` has workers, leases and sweeps; `telling_mail`
has what one workflow hears of another.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import note

from everstep.codec import JSON
from everstep.store.models import CheckpointKind, Ending, Start
from support.oracle import Oracle
from support.story import Claim, Engine, columns, difference, row

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Telling:
    """One story. `engine` and `told` (how often each kind of move had an effect) belong to the class."""

    engine: Engine
    told: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.claims: list[Claim] = []
        self.wakes: set[str] = set()
        self.bodies = 0
        self.engine.empty()
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        self.oracle.now = round(self.oracle.now + seconds + 0.001, 3)
        self.engine.set_time(self.oracle.now)

    def check(self) -> None:
        """The tables are as the oracle says; and a millisecond passes."""
        now = self.oracle.now
        self.oracle.now = round(now + 0.001, 3)
        found = self.engine.dump_and_set_time(self.oracle.now)
        wrong = difference(found, self.oracle)
        assert not wrong, "\n".join(f"{which}: {what}" for which, what in wrong.items())

    def say(self, sentence: str) -> None:
        """For who reads a story that failed: shown as it was shrunk, and not otherwise."""
        note(f"    {self.oracle.now:.3f} s: {sentence}")

    def did(self, kind: str, *, effect: object = True) -> None:
        self.told[kind] += bool(effect)

    def fresh(self) -> list[Claim]:
        return [c for c in self.claims if self.oracle.owns(c.worker, c.id, c.epoch)]

    def stale(self) -> list[Claim]:
        return [c for c in self.claims if not self.oracle.owns(c.worker, c.id, c.epoch)]

    # Starting and ending.

    def start_one(self, id_: str, delay: float = 0.0, dedup: str | None = None) -> None:
        self.say(
            f"{id_} is started{f' in {delay:g} s' * bool(delay)}{', with a key' * bool(dedup)}"
        )
        start = Start(id_, "w", "default", JSON, b"{}", delay=delay, dedup=dedup)
        done = self.engine.do(self.engine.workflows.start(self.engine.session, [start]))
        said, holder = self.oracle.start(id_, delay, dedup)
        agree(done.existing, ({id_} if said == "existing" else set()))
        agree(done.duplicates, ({id_: holder} if said == "duplicate" else {}))
        self.did(f"start: {said}")

    def restart_one(self, id_: str) -> None:
        self.say(f"{id_} is restarted")
        start = Start(id_, "w", "default", JSON, b"{}")
        again = self.engine.do(self.engine.workflows.restart(self.engine.session, start))
        agree(again, self.oracle.restart(id_))
        self.did("restart")

    def cancel_one(self, id_: str) -> None:
        self.say(f"{id_} is cancelled")
        done = self.engine.do(self.engine.workflows.cancel(self.engine.session, [id_], b"{}"))
        said, wakes = self.oracle.cancel(id_)
        agree(done.cancelling, [id_] if said == "cancelling" else [])
        agree(done.cancelled, [id_] if said == "cancelled" else [])
        agree(set(done.wakes), set(wakes))
        self.wakes |= set(wakes)
        self.did(f"cancel: {said}")

    def finish(self, claim: Claim, ending: Ending) -> None:
        self.say(f"{claim} ends: {ending.name.lower()}")
        failed = ending is not Ending.SUCCEEDED
        batch = columns(
            d_id=claim.id,
            d_epoch=claim.epoch,
            d_status=ending,
            d_output=None if failed else b"1",
            d_error=b"{}" if failed else None,
        )
        waiters = self.oracle.runs[claim.id].waiters if claim in self.fresh() else []
        said, reply = self.engine.commit(claim, batch)
        agree(said, self.oracle.finish(claim.worker, claim.id, claim.epoch, ending))
        agree(set(reply.wakes), set(waiters))
        self.wakes |= set(waiters)
        self.did(f"end: {ending.name.lower()}" if said == "written" else f"late end: {said}")

    # Checkpoints.

    def write(self, claim: Claim, kind: int, *, message: int | None = None) -> str:
        seq = claim.seq + 1
        self.say(f"{claim} records its number {seq}, {CheckpointKind(kind).name.lower()}")
        owned = self.oracle.owns(claim.worker, claim.id, claim.epoch)
        said, reply = self.engine.commit(claim, row(claim, kind, seq, message=message))
        agree(said, self.oracle.record(claim.worker, claim.id, claim.epoch, seq, kind, "1"))
        cancelled = owned and self.oracle.runs[claim.id].cancel
        agree(reply.cancels, ([claim.id] if cancelled else []))
        if said == "written":
            claim.seq = seq
        return said

    def record_again(self, claim: Claim) -> None:
        """The reply was lost, and the commit is repeated: it is there already, and stays as it was."""
        self.say(f"{claim} records its number {claim.seq} again, with another outcome")
        kind = CheckpointKind.STEP
        said, _ = self.engine.commit(claim, row(claim, kind, claim.seq, output=b"2"))
        then = self.oracle.record(claim.worker, claim.id, claim.epoch, claim.seq, kind, "2")
        agree(said, then)
        agree(said, "mine")
        self.did("record again")

    def start_child_of(self, claim: Claim) -> None:
        claim.seq += 1
        child = f"{claim.id}/{claim.seq}"
        self.say(f"{claim} starts its child {child}")
        outcome = f'{{"id": "{child}"}}'
        batch = row(claim, CheckpointKind.CHILD, claim.seq, output=outcome.encode())
        columns(batch, s_parent=claim.id, s_epoch=claim.epoch, s_id=child, **CHILD)
        said, _ = self.engine.commit(claim, batch)
        kind = CheckpointKind.CHILD
        agree(
            said, self.oracle.record(claim.worker, claim.id, claim.epoch, claim.seq, kind, outcome)
        )
        self.oracle.start_child(claim.id, child)
        self.did("start a child")

    def park(self, claim: Claim, seconds: float | None, key: str, signals: int) -> str:
        self.say(f"{claim} parks for {key}, having seen {signals} signals; seconds: {seconds}")
        wake_at = None if seconds is None else round(self.oracle.now + seconds, 3)
        batch = columns(
            p_id=claim.id,
            p_epoch=claim.epoch,
            p_key=key,
            p_signals=signals,
            p_generation=0,
            p_wake_at=None if wake_at is None else EPOCH + timedelta(seconds=wake_at),
        )
        said, _ = self.engine.commit(claim, batch)
        then = self.oracle.park(claim.worker, claim.id, claim.epoch, wake_at, key, signals)
        agree(said, then)
        self.did(f"park: {said}")
        return said


def agree(answer: object, expected: object) -> None:
    """What the engine answered, and what the oracle says that it should."""
    assert answer == expected, f"the engine answered {answer!r}, and should have {expected!r}"


CHILD: dict[str, Any] = {
    "s_name": "w",
    "s_queue": "default",
    "s_priority": 1,
    "s_codec": JSON,
    "s_input": b"{}",
    "s_attributes": None,
    "s_delay": 0.0,
    "s_run_at": None,
    "s_timeout": 1e12,
    "s_deadline": None,
    "s_version": None,
    "s_partition": None,
}
