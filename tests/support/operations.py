"""Operations for interleavings: the engine's statements about the workflow `w` and its child `c`, by somebody.

The owner is who had the workflow in the beginning, whatever happened to it since: its statements may come late. The
heir is the worker that claims what is free, loads its log, and goes on from there; before it has claimed anything it
does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everstep.codec import JSON
from everstep.store.models import CheckpointKind, CommitBatch, Committed, Ending, Lane, Start
from support.interleave import Call, Op, Side, World
from support.protocol import rescue
from support.scenarios import OTHER, RIVAL

LANE = Lane("default", 1)
START = Start("w", "w", "default", JSON, b"{}")
Fill = Callable[[CommitBatch, int, World], None]


def committing(name: str, id_: str, fill: Fill, *, heir: bool = False) -> Op:
    """A group commit of one workflow's rows, and what the committer does with rows that were left over."""

    position: list[tuple[str, int]] = []

    async def commit(side: Side, world: World, *, waiting: bool = False) -> Committed | None:
        if heir and (OTHER, id_) not in world.epochs:
            return None
        worker = OTHER if heir else world.owner
        batch = CommitBatch()
        fill(batch, world.epoch(worker, id_), world)
        if not len(batch) or (heir and batch.c_id and world.loaded):
            return None  # it is in the log already
        position[:] = zip(batch.c_branch, batch.c_seq, strict=True)
        return await side.runs(worker).commit(side.connection, batch, waiting=waiting)

    async def finish(side: Side, world: World, reply: Committed | None) -> Any:
        if reply is None:
            return None
        if not reply.leftovers:
            return _said(reply)
        worker = OTHER if heir else world.owner
        epoch = world.epoch(worker, id_)
        runs = side.runs(worker)
        (verdict,) = (await runs.verdicts(side.connection, [(id_, epoch)])).values()
        if not verdict.owner:
            return "finished" if verdict.finished else "fenced"
        if verdict.mine.intersection(position):
            return "there already"  # the same commit, repeated
        again = await commit(side, world, waiting=True)
        assert again is not None
        if again.leftovers:
            (verdict,) = (await runs.verdicts(side.connection, [(id_, epoch)])).values()
            assert not verdict.owner, "rows are refused although this worker owns them"
            return "finished" if verdict.finished else "fenced"
        return _said(again)

    return Op(name, commit, finish, again=heir, commits=None if heir else id_)


def _said(reply: Committed) -> Any:
    return reply.cancels, reply.stirred, sorted(reply.wakes), reply.children


def sweeping(name: str, call: Call) -> Op:
    """Level-triggered: what it passed over because it was locked, the next round finds."""
    return Op(name, call, again=True)


def checkpoint(
    kind: CheckpointKind,
    name: str,
    *,
    target: str | None = None,
    id_: str = "w",
    branch: str = "",
) -> Fill:
    def fill(batch: CommitBatch, epoch: int, world: World) -> None:
        for column, value in (
            *(
                ("c_id", id_),
                ("c_epoch", epoch),
                ("c_branch", branch),
                ("c_seq", 1),
                ("c_kind", kind),
            ),
            *(("c_name", name), ("c_attempts", 1), ("c_codec", JSON), ("c_error", None)),
            *(("c_output", b'{"id": "w/1"}'), ("c_seconds", 0.0), ("c_target", target)),
            ("c_message", world.message if kind is CheckpointKind.RECEIVE else None),
        ):
            getattr(batch, column).append(value)

    return fill


def ending(id_: str) -> Fill:
    def fill(batch: CommitBatch, epoch: int, _: World) -> None:
        batch.d_id.append(id_)
        batch.d_epoch.append(epoch)
        batch.d_status.append(Ending.SUCCEEDED)
        batch.d_output.append(b"1")
        batch.d_error.append(None)

    return fill


def parking(key: str) -> Fill:
    """Park with the count of the last look; a plain sleep has none."""

    def fill(batch: CommitBatch, epoch: int, world: World) -> None:
        if world.seen and key != "sleep":
            return  # there is no reason to wait
        batch.p_id.append("w")
        batch.p_epoch.append(epoch)
        batch.p_wake_at.append(None)
        batch.p_key.append(key)
        batch.p_signals.append(-1 if key == "sleep" else world.signals)
        batch.p_generation.append(0)

    return fill


def starting_a_child(batch: CommitBatch, epoch: int, world: World) -> None:
    checkpoint(CheckpointKind.CHILD, "w", target="w/1", branch="1")(batch, epoch, world)
    for column, value in (
        *(("s_parent", "w"), ("s_epoch", epoch), ("s_id", "w/1"), ("s_name", "w")),
        *(("s_queue", "other"), ("s_priority", 1), ("s_codec", JSON), ("s_input", b"{}")),
        *(("s_attributes", None), ("s_delay", 0.0), ("s_run_at", None), ("s_timeout", 1e12)),
        *(("s_deadline", None), ("s_version", None), ("s_partition", None)),
    ):
        getattr(batch, column).append(value)


def answering(batch: CommitBatch, epoch: int, world: World) -> None:
    """After a look: take the message, or park."""
    if world.seen:
        checkpoint(CheckpointKind.RECEIVE, "t")(batch, epoch, world)
    else:
        parking("message:t")(batch, epoch, world)


async def _claim(side: Side, world: World) -> Any:
    claims = await side.runs(OTHER).claim(side.connection, LANE, names=["w"], cursor=None, limit=9)
    world.epochs.update({(OTHER, claimed.id): claimed.epoch for claimed in claims})
    logs = await side.runs(OTHER).load(side.connection, [claimed.id for claimed in claims])
    if "w" in logs:
        world.loaded = len(logs["w"])
    return sorted((c.id, c.epoch, c.crashes, c.cancel, len(logs[c.id])) for c in claims)


async def _rival_claims(side: Side, _: World) -> Any:
    claims = await side.runs(RIVAL).claim(side.connection, LANE, names=["w"], cursor=None, limit=9)
    return sorted((c.id, c.epoch) for c in claims)


async def _cancel(side: Side, id_: str) -> Any:
    done = await side.workflows.cancel(side.connection, [id_], b"{}")
    return done.cancelling, done.cancelled, done.wakes


async def _start(side: Side, _: World) -> Any:
    return sorted((await side.workflows.start(side.connection, [START])).existing)


async def _send(side: Side, _: World) -> Any:
    letter = side.messages.letter("w", "t", b"1", "k")
    return (await side.messages.send(side.connection, [letter])).get("w", False)


async def _look(side: Side, world: World) -> Any:
    """The heir looks whether a message has come."""
    if (OTHER, "w") not in world.epochs:
        return None
    (seen,) = await side.messages.peek_messages(side.connection, [("w", "t")], [])
    if seen is not None:
        world.signals, world.seen, world.message = seen.signals, seen.n is not None, seen.n or 0
    return seen and (seen.signals, seen.n is not None)


async def _look_at_child(side: Side, world: World) -> Any:
    (seen,) = await side.messages.peek_outcomes(side.connection, [("w", "c")])
    if seen is not None:
        world.signals, world.seen = seen.signals, seen.finished
    return seen and (seen.signals, seen.finished)


async def _look_for_event(side: Side, world: World) -> Any:
    (seen,) = await side.messages.peek_events(side.connection, [("w", "c", "k")])
    if seen is not None:
        world.signals, world.seen = seen.signals, seen.finished or seen.body is not None
    return seen and (seen.signals, seen.finished, seen.body)


STEP = checkpoint(CheckpointKind.STEP, "step")
TAKE = checkpoint(CheckpointKind.RECEIVE, "t")

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        sweeping("claim", _claim),
        sweeping("a rival claims", _rival_claims),
        sweeping("rescue", lambda s, _: rescue(s.runs(OTHER), s.connection)),
        sweeping("wake due", lambda s, _: s.runs(OTHER).wake_due(s.connection)),
        sweeping("wake forgotten", lambda s, _: s.messages.wake_forgotten(s.connection)),
        sweeping("bury", lambda s, _: s.runs(OTHER).bury(s.connection, 5, b"{}")),
        Op("release", lambda s, w: s.runs(w.owner).release(s.connection)),
        Op("die", lambda s, w: s.workers(w.owner).set_state(s.connection, 3)),
        Op("cancel", lambda s, _: _cancel(s, "w")),
        Op("cancel the child", lambda s, _: _cancel(s, "c")),
        Op("start", _start),
        Op("restart", lambda s, _: s.workflows.restart(s.connection, START)),
        Op("send", _send),
        Op("wake", lambda s, _: s.messages.wake(s.connection, ["w"])),
        Op("watch", lambda s, _: s.messages.watch(s.connection, [("c", "w")])),
        Op("look", _look, again=True),
        Op("look at the child", _look_at_child),
        Op("look for the event", _look_for_event),
        committing("checkpoint", "w", STEP),
        committing("take", "w", TAKE),
        committing("complete", "w", ending("w")),
        committing("park", "w", parking("message:t")),
        committing("sleep", "w", parking("sleep")),
        committing("await the child", "w", parking("workflow:c")),
        committing("await the event", "w", parking("event:c:k")),
        committing("start a child", "w", starting_a_child),
        committing("complete the child", "c", ending("c")),
        committing("publish", "c", checkpoint(CheckpointKind.PUBLISH, "k", id_="c")),
        committing("tell", "c", checkpoint(CheckpointKind.SEND, "t", id_="c", target="w")),
        committing("the heir records", "w", STEP, heir=True),
        committing("the heir answers", "w", answering, heir=True),
        committing("the heir completes", "w", ending("w"), heir=True),
    )
}
"""By name."""
