"""What the engine's statements must do, said once more in plain Python, one statement after the other.

The database is held against this after each statement of a long random story (tests/chaos/test_stateful.py).
"""

from __future__ import annotations

from collections import Counter

from support.rows import (
    CANCELLED,
    DEAD_LETTER,
    FAILED,
    OPEN,
    READY,
    RUNNING,
    SUCCEEDED,
    WAITING,
    Message,
    Run,
    Workflow,
)

LEASE_SECONDS = 15
STARTED, CLAIMED, FINISHED, RESCUED = 1, 2, 3, 4
MAX_CRASHES = 3


class Oracle:
    """All workflows, all workers, and the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: dict[str, Run] = {}
        self.workflows: dict[str, Workflow] = {}
        self.leases: dict[int, float] = {}
        self.dead: set[int] = set()
        self.counts: Counter[tuple[int, int]] = Counter()

    def live(self, worker: int) -> bool:
        return worker not in self.dead

    def start(self, id_: str, delay: float, dedup: str | None) -> tuple[str, str | None]:
        holders = [i for i, run in self.runs.items() if dedup and run.dedup == dedup and i != id_]
        if holders:
            return "duplicate", holders[0]
        if id_ in self.workflows:
            return "existing", None
        self._begin(id_, Run(WAITING if delay else READY, self.now, dedup=dedup))
        if delay:
            self.runs[id_].wake_at = self.now + delay
        return "started", None

    def _begin(self, id_: str, run: Run, parent: str | None = None) -> None:
        self.workflows[id_] = Workflow(parent=parent)
        self.runs[id_] = run
        self.counts[STARTED, 0] += 1

    def restart(self, id_: str) -> bool:
        workflow = self.workflows[id_]
        if workflow.status not in (FAILED, CANCELLED, DEAD_LETTER):
            return False
        self.runs[id_] = Run(READY, self.now, epoch=(workflow.epoch or 0) + 1)
        for message in workflow.mail:
            message.taken_at = None
        self.workflows[id_] = Workflow(parent=workflow.parent, mail=workflow.mail)
        self.counts[STARTED, 0] += 1
        return True

    def claimable(self, *, suspect: bool) -> list[str]:
        """In the order in which they are claimed; of those that became ready together, any may be first."""
        found = [
            i
            for i, run in self.runs.items()
            if run.state == READY and run.ready_at <= self.now and (run.crashes >= 3) == suspect
        ]
        return sorted(found, key=lambda i: self.runs[i].ready_at)

    def claim(self, worker: int, id_: str) -> tuple[int, int, bool]:
        run = self.runs[id_]
        run.state, run.worker, run.epoch, run.pinned = RUNNING, worker, run.epoch + 1, True
        self.counts[CLAIMED, 0] += 1
        return run.epoch, run.crashes, run.cancel

    def owns(self, worker: int, id_: str, epoch: int) -> bool:
        run = self.runs.get(id_)
        return run is not None and (run.worker, run.epoch) == (worker, epoch)

    def _gone(self, worker: int, id_: str, epoch: int) -> str:
        """Why a write is refused: I finished it myself (the reply was lost), or somebody else has it."""
        workflow = self.workflows[id_]
        return "finished" if (workflow.by, workflow.epoch) == (worker, epoch) else "fenced"

    def record(self, worker: int, id_: str, epoch: int, seq: int, kind: int, outcome: str) -> str:
        """A checkpoint: written, there already (by me), or fenced."""
        if not self.owns(worker, id_, epoch):
            return self._gone(worker, id_, epoch)
        log = self.workflows[id_].log
        if seq in log:
            return "mine" if log[seq][1:3] == (worker, epoch) else "conflict"
        log[seq] = (kind, worker, epoch, outcome)
        return "written"

    def start_child(self, parent: str, id_: str) -> None:
        if id_ not in self.workflows:
            self._begin(id_, Run(READY, self.now, waiters=[parent]), parent)

    def finish(self, worker: int, id_: str, epoch: int, status: int) -> str:
        if not self.owns(worker, id_, epoch):
            return self._gone(worker, id_, epoch)
        self._end(id_, status, worker)
        return "written"

    def _end(self, id_: str, status: int, by: int | None) -> list[str]:
        run, workflow = self.runs.pop(id_), self.workflows[id_]
        workflow.status, workflow.by, workflow.epoch = status, by, run.epoch
        workflow.output = 1 if status == SUCCEEDED else None
        self.counts[FINISHED, status] += 1
        return run.waiters

    def park(
        self, worker: int, id_: str, epoch: int, wake_at: float | None, key: str, signals: int
    ) -> str:
        if not self.owns(worker, id_, epoch):
            return self._gone(worker, id_, epoch)
        run = self.runs[id_]
        if run.cancel:
            return "cancelled"
        if signals not in (-1, run.signals):
            return "stirred"
        run.state, run.worker, run.epoch = WAITING, None, run.epoch + 1
        run.crashes = 0
        run.wake_at, run.wait_key = wake_at, key
        return "parked"

    def _free(self, run: Run) -> None:
        run.state, run.worker, run.epoch, run.ready_at = READY, None, run.epoch + 1, self.now

    def release(self, worker: int, ids: list[str] | None = None) -> int:
        held = {i: run for i, run in self.runs.items() if run.worker == worker}
        mine = [run for i, run in held.items() if ids is None or i in ids]
        for run in mine:
            self._free(run)
        return len(mine)

    def expired(self) -> set[int]:
        return {k for k, until in self.leases.items() if self.live(k) and until < self.now}

    def declare_dead(self) -> int:
        gone = self.expired()
        self.dead |= gone
        return len(gone)

    def rescue(self) -> int:
        lost = {i: run for i, run in self.runs.items() if run.worker in self.dead}
        for id_, run in lost.items():
            steps = len(self.workflows[id_].log)
            run.crashes = 1 if steps > run.progress else run.crashes + 1
            run.progress = steps
            self._free(run)
            self.counts[RESCUED, 0] += 1
        return len(lost)

    def bury(self) -> int:
        hopeless = [i for i, r in self.runs.items() if r.state == READY and r.crashes > MAX_CRASHES]
        for id_ in hopeless:
            self._end(id_, DEAD_LETTER, None)
        return len(hopeless)

    def _rouse(self, run: Run) -> None:
        run.state, run.ready_at, run.wake_at, run.wait_key = READY, self.now, None, None

    def due(self) -> list[Run]:
        runs = self.runs.values()
        return [r for r in runs if r.state == WAITING and (r.wake_at or 1e99) <= self.now]

    def wake_due(self) -> int:
        due = self.due()
        for run in due:
            self._rouse(run)
        return len(due)

    def wake(self, ids: set[str]) -> int:
        stirred = [self.runs[i] for i in ids if i in self.runs]
        for run in stirred:
            run.signals += 1
            if run.state == WAITING and run.epoch > 0:
                self._rouse(run)
        return sum(run.state == READY for run in stirred)

    def forgotten(self) -> set[str]:
        """Who waits without a reason."""
        return {
            i
            for i, run in self.runs.items()
            if run.state == WAITING and run.epoch > 0 and self._come_true(i, run.wait_key or "")
        }

    def _come_true(self, id_: str, key: str) -> bool:
        kind, _, what = key.partition(":")
        if kind == "message":
            return any(message.taken_at is None for message in self.workflows[id_].mail)
        return kind == "workflow" and self.workflows[what].status != OPEN

    def wake_forgotten(self) -> int:
        found = self.forgotten()
        self.wake(found)
        return len(found)

    def cancel(self, id_: str) -> tuple[str, list[str]]:
        run = self.runs.get(id_)
        if run is None:
            return "finished", []
        if run.state == RUNNING:
            run.cancel = True
            return "cancelling", []
        return "cancelled", self._end(id_, CANCELLED, None)

    def send(self, id_: str, body: int) -> bool:
        workflow = self.workflows[id_]
        if workflow.status == OPEN:
            workflow.mail.append(Message(body))
        return workflow.status == OPEN

    def watch(self, target: str, waiter: str) -> None:
        run = self.runs.get(target)
        if run is not None and waiter not in run.waiters:
            run.waiters.append(waiter)

    def beat(self, worker: int) -> set[str] | None:
        if not self.live(worker):
            return None
        self.leases[worker] = self.now + LEASE_SECONDS
        return {i for i, run in self.runs.items() if run.worker == worker and run.cancel}
