"""Long random stories of workflows and workers, told to the real statements and to an oracle, which must agree.

One rule is one statement, or what a worker does with it at once. After each the tables must be what the oracle says,
and what the statement answered too; a story ends with a sweep, and fsck finds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.oracle import LEASE_SECONDS, MAX_CRASHES, OPEN, SUCCEEDED, Oracle
from support.story import TRUNCATE, Claim, Engine, expected, row

from everstep.codec import JSON
from everstep.store.models import CheckpointKind, CommitBatch, Ending, Lane, Start
from everstep.store.workers import WorkerState

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PICK = st.integers(0, 11)
IDS = ("a", "b", "c", "d", "e", "f", "g", "h")
SOONER, LATER = 1, 20
ROUNDS, EXAMPLES, STEPS = 6, 100, 60
EACH = (
    *(
        "start: started",
        "start: existing",
        "start: duplicate",
        "restart",
        "join",
        "claim",
        "claim a suspect",
    ),
    *(
        "record",
        "record again",
        "write late",
        "end: succeeded",
        "end: failed",
        "park: parked",
        "tick",
    ),
    *(
        "wake due",
        "send",
        "wake",
        "receive",
        "start a child",
        "cancel: cancelled",
        "cancel: cancelling",
    ),
    *("beat", "kill", "freeze", "declare dead", "rescue", "bury", "wake forgotten", "leave"),
)
"""What a long run has to have seen LEAST times each; it goes on for so many rounds until it has."""
LEAST = 30


class Story(RuleBasedStateMachine):
    """`engine` and `told` (how often each rule had an effect) belong to the class made for a test."""

    engine: Engine
    told: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.claims: list[Claim] = []
        self.wakes: set[str] = set()
        self.bodies = 0
        self.workers = 0
        self.engine.execute(TRUNCATE)
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        self.oracle.now = round(self.oracle.now + seconds + 0.001, 3)
        self.engine.set_time(self.oracle.now)

    def did(self, rule_name: str, *, effect: object = True) -> None:
        self.told[rule_name] += bool(effect)

    # What there is to choose from.

    def to_cancel(self) -> list[str]:
        """What nobody has cancelled yet, and one that has finished, if any has."""
        finished = [i for i in self.oracle.workflows if i not in self.oracle.runs]
        return [i for i, run in self.oracle.runs.items() if not run.cancel] + finished[:1]

    def to_beat(self) -> list[int]:
        """Workers whose lease is half over, and those to be told of a cancellation."""
        leases = self.oracle.leases.items()
        told = {run.worker for run in self.oracle.runs.values() if run.cancel}
        late = [k for k, until in leases if self.oracle.live(k) and until - self.oracle.now < 8]
        return late + [k for k in self.oracle.leases if k in told]

    def fresh(self) -> list[Claim]:
        return [c for c in self.claims if self.oracle.owns(c.worker, c.id, c.epoch)]

    def stale(self) -> list[Claim]:
        return [c for c in self.claims if not self.oracle.owns(c.worker, c.id, c.epoch)]

    def live(self) -> list[int]:
        return [k for k in self.oracle.leases if self.oracle.live(k)]

    @initialize()
    def begin(self) -> None:
        for id_ in IDS[:5]:
            self.start_one(id_, dedup="key" if id_ == "a" else None)
        for _ in range(2):
            self.join()
            self.take(self.workers, 2, suspect=False)

    @invariant()
    def the_tables_are_as_the_oracle_says(self) -> None:
        expectation = expected(self.oracle)
        self.oracle.now = round(self.oracle.now + 0.001, 3)
        assert self.engine.dump_and_set_time(self.oracle.now) == expectation

    # Starting and ending.

    def start_one(self, id_: str, delay: float = 0.0, dedup: str | None = None) -> str:
        start = Start(id_, "w", "default", JSON, b"{}", delay=delay, dedup=dedup)
        done = self.engine.do(self.engine.workflows.start(self.engine.session, [start]))
        said, holder = self.oracle.start(id_, delay, dedup)
        assert done.existing == ({id_} if said == "existing" else set())
        assert done.duplicates == ({id_: holder} if said == "duplicate" else {})
        return said

    @rule(pick=PICK, how=st.sampled_from(["", "", "delayed", "with a key"]))
    def start(self, pick: int, how: str) -> None:
        id_ = choose([*(i for i in IDS if i not in self.oracle.workflows), "a"], pick)
        delay, dedup = 5.0 * (how == "delayed"), "key" if how == "with a key" else None
        said = self.start_one(id_, delay, dedup)
        self.did(f"start: {said}")

    @precondition(lambda self: any(w.status > SUCCEEDED for w in self.oracle.workflows.values()))
    @rule(pick=PICK)
    def restart(self, pick: int) -> None:
        id_ = choose([i for i, w in self.oracle.workflows.items() if w.status > SUCCEEDED], pick)
        start = Start(id_, "w", "default", JSON, b"{}")
        again = self.engine.do(self.engine.workflows.restart(self.engine.session, start))
        assert again == self.oracle.restart(id_)
        self.did("restart")

    @precondition(lambda self: self.to_cancel())
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        id_ = choose(self.to_cancel(), pick)
        done = self.engine.do(self.engine.workflows.cancel(self.engine.session, [id_], b"{}"))
        said, wakes = self.oracle.cancel(id_)
        assert (done.cancelling, done.cancelled) == (
            [id_] if said == "cancelling" else [],
            [id_] if said == "cancelled" else [],
        )
        assert set(done.wakes) == set(wakes)
        self.wakes |= set(wakes)
        self.did(f"cancel: {said}")

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, ending=st.sampled_from([Ending.SUCCEEDED, Ending.FAILED]))
    def end(self, pick: int, ending: Ending) -> None:
        claim = choose(self.fresh(), pick)
        self.finish(claim, Ending.CANCELLED if self.oracle.runs[claim.id].cancel else ending)

    def finish(self, claim: Claim, ending: Ending) -> None:
        batch = CommitBatch()
        failed = ending is not Ending.SUCCEEDED
        for column, value in (
            *(("d_id", claim.id), ("d_epoch", claim.epoch), ("d_status", ending)),
            *(("d_output", None if failed else b"1"), ("d_error", b"{}" if failed else None)),
        ):
            getattr(batch, column).append(value)
        waiters = self.oracle.runs[claim.id].waiters if claim in self.fresh() else []
        said, reply = self.engine.commit(claim, batch)
        assert said == self.oracle.finish(claim.worker, claim.id, claim.epoch, ending)
        assert set(reply.wakes) == set(waiters)
        self.wakes |= set(waiters)
        self.did(f"end: {ending.name.lower()}" if said == "written" else f"late end: {said}")

    # Workers.

    @precondition(lambda self: len(self.live()) < 2)
    @rule()
    def join(self) -> None:
        self.workers += 1
        self.engine.register(self.workers)
        self.oracle.leases[self.workers] = self.oracle.now + 15
        self.did("join")

    @precondition(lambda self: self.live() and self.claimable())
    @rule(pick=PICK, limit=st.integers(1, 3))
    def claim(self, pick: int, limit: int) -> None:
        self.take(choose(self.live(), pick), limit, suspect=choose(self.claimable(), pick))

    def claimable(self) -> list[bool]:
        """Of whom there are any: the unsuspected, the suspects."""
        return [suspect for suspect in (False, True) if self.oracle.claimable(suspect=suspect)]

    def take(self, worker: int, limit: int, *, suspect: bool) -> None:
        free = self.oracle.claimable(suspect=suspect) if self.oracle.live(worker) else []
        ready = [self.oracle.runs[id_].ready_at for id_ in free]
        # All that became ready together or none: which of them would be first is the index's business.
        while limit < len(free) and ready[limit - 1] == ready[limit]:
            limit += 1
        claims = self.engine.do(
            self.engine.runs(worker).claim(
                self.engine.session,
                Lane("default", 1),
                names=["w"],
                cursor=None,
                limit=limit,
                suspect=suspect,
            )
        )
        assert {c.id for c in claims} == set(free[:limit])
        for c in sorted(claims, key=lambda c: c.id):
            assert (c.epoch, c.crashes, c.cancel) == self.oracle.claim(worker, c.id)
            logs = self.engine.do(self.engine.runs(worker).load(self.engine.session, [c.id]))
            assert {r.seq for r in logs[c.id]} == set(self.oracle.workflows[c.id].log)
            self.claims.append(Claim(worker, c.id, c.epoch, len(logs[c.id])))
        if claims:
            self.did("claim a suspect" if suspect else "claim")

    @precondition(lambda self: self.to_beat())
    @rule(pick=PICK)
    def beat(self, pick: int) -> None:
        worker = choose(self.to_beat(), pick)
        found = self.engine.do(beat(self.engine, worker))
        assert found == self.oracle.beat(worker)
        self.did("beat", effect=found is not None)
        for claim in self.fresh():
            if found and claim.worker == worker and claim.id in found:
                self.finish(claim, Ending.CANCELLED)

    @precondition(lambda self: self.held_by_the_living())
    @rule(pick=PICK, how=st.sampled_from(["kill", "freeze", "leave"]))
    def go(self, pick: int, how: str) -> None:
        """A worker leaves, is killed, or freezes and wakes up later; meanwhile somebody has what it held."""
        worker, kept = choose(self.held_by_the_living(), pick).worker, list(self.claims)
        if how == "leave":
            self.leave(worker)
        else:
            self.fall_silent_now(worker)
        if how == "freeze":
            self.claims = kept
        self.did(how)

    @precondition(lambda self: self.held_by_the_living())
    @rule(pick=PICK)
    def crash_in_a_row(self, pick: int) -> None:
        """Whoever claims it dies, until it is given up or has got further."""
        id_ = choose(self.held_by_the_living(), pick).id
        for _ in range(MAX_CRASHES + 1):
            holders = [c for c in self.fresh() if c.id == id_ and self.oracle.live(c.worker)]
            if not holders:
                return
            self.fall_silent_now(holders[0].worker)
            self.did("kill")
            if id_ not in self.oracle.runs:
                return
            if not self.live():
                self.join()
            self.take(self.live()[0], 20, suspect=self.oracle.runs[id_].crashes >= 3)

    def fall_silent_now(self, worker: int) -> None:
        self.pass_time(LEASE_SECONDS + 1)
        self.claims = [claim for claim in self.claims if claim.worker != worker]
        for other in self.live():
            if other != worker:
                assert self.engine.do(beat(self.engine, other)) == self.oracle.beat(other)
        self.sweep_up()

    def held_by_the_living(self) -> list[Claim]:
        return [claim for claim in self.fresh() if self.oracle.live(claim.worker)]

    def leave(self, worker: int) -> None:
        session = self.engine.session
        released = self.engine.do(self.engine.runs(worker).release(session))
        assert released == self.oracle.release(worker)
        self.engine.do(self.engine.workers(worker).set_state(session, WorkerState.DEAD))
        self.oracle.dead.add(worker)

    # Steps.

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, again=st.booleans())
    def record(self, pick: int, *, again: bool) -> None:
        claim = choose(self.fresh(), pick)
        assert self.write(claim, CheckpointKind.STEP) == "written"
        self.did("record")
        if again:
            self.record_again(claim)

    def write(self, claim: Claim, kind: int, seq: int | None = None, **more: Any) -> str:
        at = claim.seq + 1 if seq is None else seq
        owned = self.oracle.owns(claim.worker, claim.id, claim.epoch)
        said, reply = self.engine.commit(claim, row(claim, kind, at, **more))
        assert said == self.oracle.record(claim.worker, claim.id, claim.epoch, at, kind)
        cancelled = owned and self.oracle.runs[claim.id].cancel
        assert reply.cancels == ([claim.id] if cancelled else [])
        if said == "written":
            claim.seq = at
        return said

    def record_again(self, claim: Claim) -> None:
        """The reply was lost, and the same commit is repeated: it is there already, and stays as it was."""
        said, _ = self.engine.commit(claim, row(claim, CheckpointKind.STEP, claim.seq, output=b"2"))
        kind = CheckpointKind.STEP
        assert (
            said
            == self.oracle.record(claim.worker, claim.id, claim.epoch, claim.seq, kind)
            == "mine"
        )
        self.did("record again")

    @precondition(lambda self: self.stale())
    @rule(pick=PICK, what=st.sampled_from(["record", "end", "park", "claim"]))
    def write_late(self, pick: int, what: str) -> None:
        """A worker that was frozen goes on as if nothing had happened."""
        claim = choose(self.stale(), pick)
        if claim.id in self.oracle.workflows and what == "end":
            self.finish(claim, Ending.SUCCEEDED)
        elif what == "claim" and not self.oracle.live(claim.worker):
            self.take(claim.worker, 3, suspect=False)
        elif what == "record":
            assert self.write(claim, CheckpointKind.STEP) in ("fenced", "finished")
        else:
            self.park(claim, None, "sleep", -1)
        self.did("write late")

    # Waiting.

    def park(self, claim: Claim, seconds: float | None, key: str, signals: int) -> str:
        wake_at = None if seconds is None else round(self.oracle.now + seconds, 3)
        batch = CommitBatch()
        for column, value in (
            *(("p_id", claim.id), ("p_epoch", claim.epoch), ("p_key", key), ("p_signals", signals)),
            ("p_generation", 0),
            ("p_wake_at", None if wake_at is None else EPOCH + timedelta(seconds=wake_at)),
        ):
            getattr(batch, column).append(value)
        said, _ = self.engine.commit(claim, batch)
        done = self.oracle.park(claim.worker, claim.id, claim.epoch, wake_at, key, signals)
        assert said == done
        self.did(f"park: {said}")
        return said

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK, seconds=st.integers(SOONER, LATER))
    def sleep(self, pick: int, seconds: int) -> None:
        claim = choose(self.fresh(), pick)
        self.write(claim, CheckpointKind.SLEEP)
        self.park(claim, seconds, "sleep", -1)

    @precondition(lambda self: any(run.wake_at for run in self.oracle.runs.values()))
    @rule(seconds=st.integers(SOONER, LATER))
    def tick(self, seconds: int) -> None:
        self.pass_time(seconds)
        self.did("tick")

    @precondition(lambda self: self.oracle.due())
    @rule()
    def wake_due(self) -> None:
        woken = self.engine.do(self.engine.runs(0).wake_due(self.engine.session))
        assert woken == self.oracle.wake_due()
        self.did("wake due", effect=woken)

    @precondition(lambda self: self.oracle.workflows)
    @rule(pick=PICK, dies=st.sampled_from([False, False, True]))
    def send(self, pick: int, *, dies: bool) -> None:
        self.post(choose(self.oracle.workflows, pick), wakes=not dies)

    def post(self, id_: str, *, wakes: bool) -> None:
        """Put a message down; whom it wakes is woken later, or, if the sender dies, by nobody."""
        self.bodies += 1
        sent = self.engine.do(
            self.engine.messages.send(
                self.engine.session, id_, "t", body=b"%d" % self.bodies, key=None
            )
        )
        assert sent == self.oracle.send(id_, self.bodies)
        if sent and wakes:
            self.wakes.add(id_)
        self.did("send" if wakes else "send and die", effect=sent)

    @precondition(lambda self: self.wakes)
    @rule()
    def wake(self) -> None:
        self.deliver()

    def deliver(self) -> None:
        woken = self.engine.do(self.engine.messages.wake(self.engine.session, sorted(self.wakes)))
        assert woken == self.oracle.wake(self.wakes)
        self.wakes = set()
        self.did("wake")

    @precondition(lambda self: self.fresh())
    @rule(
        pick=PICK,
        meanwhile=st.sampled_from(
            ["nothing", "send", "send and wake", "send and die", "send and die"]
        ),
    )
    def listen(self, pick: int, meanwhile: str) -> None:
        """Look for a message, and take it or park, whatever has happened since the look."""
        self.listen_now(choose(self.told_something() or self.fresh(), pick), meanwhile)

    def told_something(self) -> list[Claim]:
        mail = {i for i, w in self.oracle.workflows.items() if any(not m.taken_at for m in w.mail)}
        return [claim for claim in self.fresh() if claim.id in mail]

    @precondition(lambda self: self.fresh())
    @rule(pick=PICK)
    def lose_a_wake_up(self, pick: int) -> None:
        """The sender dies before it wakes anybody, and somebody sweeps."""
        self.listen_now(choose(self.fresh(), pick), "send and die")
        self.sweep_up()

    def listen_now(self, claim: Claim, meanwhile: str) -> None:
        signals, message, body = self.look(claim)
        if meanwhile != "nothing":
            self.post(claim.id, wakes=meanwhile != "send and die")
        if meanwhile == "send and wake":
            self.deliver()
        if body is None:
            self.park(claim, None, "message:t", signals)
            return
        assert self.write(claim, CheckpointKind.RECEIVE, message=message) == "written"
        mail = self.oracle.workflows[claim.id].mail
        next(m for m in mail if m.body == body).taken_at = claim.seq
        self.did("receive")

    def look(self, claim: Claim) -> tuple[int, int | None, int | None]:
        """What the look showed: how many signals, and which message with what body."""
        (seen,) = self.engine.do(
            self.engine.messages.peek_messages(self.engine.session, [(claim.id, "t")], [])
        )
        assert seen is not None
        mail = [m.body for m in self.oracle.workflows[claim.id].mail if m.taken_at is None]
        body = None if seen.body is None else int(seen.body)
        assert (seen.signals, body) == (self.oracle.runs[claim.id].signals, (mail or [None])[0])
        return seen.signals, seen.n, body

    # Children.

    @precondition(lambda self: any(len(c.id) == 1 for c in self.fresh()))
    @rule(pick=PICK)
    def start_a_child(self, pick: int) -> None:
        claim = choose([c for c in self.fresh() if len(c.id) == 1], pick)
        child = f"{claim.id}/{claim.seq + 1}"
        batch = row(
            claim, CheckpointKind.CHILD, claim.seq + 1, output=b'{"id": "%s"}' % child.encode()
        )
        for column, value in (
            *(("s_parent", claim.id), ("s_epoch", claim.epoch), ("s_id", child), ("s_name", "w")),
            *(("s_queue", "default"), ("s_priority", 1), ("s_codec", JSON), ("s_input", b"{}")),
            *(("s_attributes", None), ("s_delay", 0.0), ("s_run_at", None), ("s_timeout", 1e12)),
            *(("s_deadline", None), ("s_version", None), ("s_partition", None)),
        ):
            getattr(batch, column).append(value)
        claim.seq += 1
        said, _ = self.engine.commit(claim, batch)
        assert said == self.oracle.record(
            claim.worker, claim.id, claim.epoch, claim.seq, CheckpointKind.CHILD
        )
        self.oracle.start_child(claim.id, child)
        self.did("start a child")

    @precondition(lambda self: self.fresh() and any("/" in i for i in self.oracle.workflows))
    @rule(pick=PICK, which=PICK)
    def await_a_child(self, pick: int, which: int) -> None:
        claim, session = choose(self.fresh(), pick), self.engine.session
        child = choose([i for i in self.oracle.workflows if "/" in i], which)
        if child == claim.id:
            return
        self.engine.do(self.engine.messages.watch(session, [(child, claim.id)]))
        self.oracle.watch(child, claim.id)
        asked = self.engine.messages.peek_outcomes(session, [(claim.id, child)])
        (seen,) = self.engine.do(asked)
        assert seen is not None
        assert seen.finished == (self.oracle.workflows[child].status != OPEN)
        if seen.finished:
            self.write(claim, CheckpointKind.RESULT)
            self.did("get a result")
        else:
            self.park(claim, None, f"workflow:{child}", seen.signals)

    # Sweeping.

    @precondition(lambda self: self.oracle.forgotten() or self.oracle.expired())
    @rule()
    def sweep(self) -> None:
        self.sweep_up()

    def sweep_up(self) -> None:
        engine, session = self.engine, self.engine.session
        suspects = [
            lease.worker_id
            for lease in engine.do(engine.workers(0).leases(session))
            if lease.expired
        ]
        dead = engine.do(engine.workers(0).declare_dead(session, suspects))
        assert len(dead) == self.oracle.declare_dead()
        rescued = engine.do(engine.runs(0).rescue(session))
        assert rescued == self.oracle.rescue()
        buried = engine.do(engine.runs(0).bury(session, MAX_CRASHES, b"{}"))
        assert buried == self.oracle.bury()
        forgotten = engine.do(engine.messages.wake_forgotten(session))
        assert forgotten == self.oracle.wake_forgotten()
        for what, count in (
            ("declare dead", dead),
            ("rescue", rescued),
            ("bury", buried),
            ("wake forgotten", forgotten),
        ):
            self.did(what, effect=count)

    def teardown(self) -> None:
        """Whoever is gone is gone; somebody sweeps; nothing may be wrong then."""
        self.pass_time(100)
        self.join()
        self.sweep_up()
        self.wake_due()
        self.the_tables_are_as_the_oracle_says()
        assert self.engine.fsck() == []


def choose(among: Any, pick: int) -> Any:
    options = sorted(among) if not isinstance(among, list) else among
    return options[pick % len(options)]


async def beat(engine: Engine, worker: int) -> set[str] | None:
    from everstep.store.statements import statements

    arguments = {"me": engine.runs(worker)._me, "ttl": 15}
    cursor = await engine.session.execute(statements("everstep")["beat"], arguments)
    found = await cursor.fetchone()
    return None if found is None else set(found.cancels)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = Engine(database)
    yield engine
    engine.execute(TRUNCATE)
    engine.close()


def tell(engine: Engine, number: int, examples: int, steps: int) -> Counter[str]:
    """So many stories of so many steps. Returns how often each rule had an effect."""
    told: Counter[str] = Counter()
    machine = seed(number)(type("TestedStory", (Story,), {"engine": engine, "told": told}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    return told


def test_short_stories_agree_with_the_oracle(engine: Engine, seed: int):
    assert tell(engine, seed, 8, 30)["claim"] > 0


@pytest.mark.slow
def test_long_stories_agree_with_the_oracle(engine: Engine, seed: int):
    told: Counter[str] = Counter()
    stories = 0
    while stories < ROUNDS * EXAMPLES and any(told[kind] < LEAST for kind in EACH):
        told += tell(engine, seed + stories, EXAMPLES, STEPS)
        stories += EXAMPLES
    print(
        f"{stories} stories, {told.total()} effects of {len(told)} kinds: {dict(told.most_common())}"
    )
    assert {kind: told[kind] for kind in EACH if told[kind] < LEAST} == {}
