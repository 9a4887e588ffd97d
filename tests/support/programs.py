"""Random programs for `program_app` to run: nested lists that say which parts of the language to use, and for how long.

A program ends by construction: each `recv` has a message to come or a limit, and who waits for another program waits for
one that waits for nobody. Nothing in it is known to be different at a replay (docs/guides/stopping.md says what is).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Node = list[Any]

EDGES = (0.05, 0.1, 0.15, 0.2, 0.21, 0.23, 0.25, 0.3, 0.35, 0.5, 1.0, 1.05, 1.2)
"""Seconds around which waits begin to look, stand still and park (everstep.durable.waiting)."""

SIMPLE = (
    *("step", "step", "step", "flaky", "fail", "sleep", "sleep", "recv", "recv", "wait"),
    *("send", "set", "get", "child", "now", "uuid"),
)
IN_CUT = (
    *("cleanup", "cleanup", "cleanup", "stubborn", "gather", "group", "task", "joined", "joined"),
    *("limit", "limit", "cancel", "children"),
)
"""What a task that may be cancelled does: no `shield` and no `asyncio.wait` (docs/internals/cancelling.md)."""

CUTS = 0.3
"""How often a statement cancels tasks."""

MOST_NODES, DEEPEST = 14, 4


@dataclass
class Maker:
    """Makes the program with this number, of `count` that run at once.

    `limited`: in a block with a time limit; `cut`: in a task that may be cancelled.
    """

    rng: random.Random
    number: int
    count: int
    limited: bool = False
    cut: bool = False
    nodes: int = 0
    tasks: list[str] = field(default_factory=list)
    topics: Counter[str] = field(default_factory=Counter)

    def program(self) -> dict[str, Any]:
        body = self.sequence(0)
        return {
            "number": self.number,
            "body": body,
            "keeps": self.rng.random() < 0.3,
            "messages": dict(self.topics),
        }

    def new(self) -> int:
        self.nodes += 1
        return self.nodes

    def seconds(self) -> float:
        return round(self.rng.choice(EDGES) + self.rng.choice((0, 0, 0, -0.01, 0.01, 0.003)), 3)

    def sequence(self, depth: int) -> Node:
        """Statements of one branch."""
        size = self.rng.choice((2, 3, 3, 4) if depth < 2 else (1, 1, 2, 3))
        return ["sequence", *[self.statement(depth + 1) for _ in range(size)]]

    def branch(self, depth: int) -> Node:
        """What runs as a task of its own."""
        tasks, self.tasks = self.tasks, []
        node = self.sequence(depth)
        self.tasks = tasks
        return node

    def statement(self, depth: int) -> Node:
        self.new()
        if self.nodes > MOST_NODES or depth > DEEPEST:
            return self.simple()
        if self.cut and self.limited:
            return getattr(self, self.rng.choice(("limit", "gather", "group")))(depth)
        if self.cut:
            kind = self.rng.choice(("simple",) * 4 + IN_CUT)
            return self.simple() if kind == "simple" else getattr(self, kind)(depth)
        if not (self.limited or self.cut) and self.rng.random() < CUTS:
            return self.rng.choice((self.cancel, self.cancel, self.broken))(depth)
        kind = self.rng.choice(
            ("simple",) * 6
            + ("limit",) * 5
            + ("gather", "gather", "group", "task", "task", "join", "join")
            + ("first", "shield", "shield", "completed", "guard", "guard", "guard", "children")
        )
        return self.simple() if kind == "simple" else getattr(self, kind)(depth)

    def simple(self, kinds: tuple[str, ...] = SIMPLE) -> Node:
        rng, n = self.rng, self.new()
        kind = rng.choice(kinds)
        node: Node = [kind]
        match kind:
            case "step" | "flaky" | "fail" | "child":
                node = [kind, n, rng.choice((0, 0, 1, 5, 20, 60))]
            case "sleep":
                node = [kind, self.seconds()]
            case "recv" | "wait":
                topic = rng.choice("ab" if kind == "recv" else ("a", "b", "never"))
                self.topics[topic] += topic != "never"
                node = ["recv", topic, None if kind == "recv" else self.seconds()]
            case "send":
                node = [kind, rng.randrange(self.count), rng.choice("ab")]
            case "set":
                node = [kind, rng.choice("xy"), n]
            case "get" if self.number % 2 and rng.random() < 0.5:
                node = [kind, self.number - 1, "end", None]
            case "get":
                node = [kind, rng.randrange(self.count), rng.choice("xy"), self.seconds()]
        return node

    def limit(self, depth: int) -> Node:
        how = self.rng.choice(("timeout", "asyncio", "wait_for"))
        if how == "wait_for":
            return ["limit", how, self.seconds(), self.simple()]
        if not self.limited and self.rng.random() < 0.3:
            return ["limit", how, self.seconds(), self.stopped_guard()]
        limited, self.limited = self.limited, True
        node = ["limit", how, self.seconds(), self.sequence(depth)]
        self.limited = limited
        return node

    def stopped_guard(self) -> Node:
        """Cleaning up in a block that runs out of time.

        Only behind what is recorded as stopped: of anything else a replay may know the end, and come into a guard, or out
        of one, that the first run did not (docs/guides/stopping.md).
        """
        body = [self.simple(("step", "flaky", "fail", "recv", "wait", "child")) for _ in range(2)]
        how = self.rng.choice(("finally", "cancelled"))
        return ["guard", how, ["sequence", *body], self.simple_step()]

    def members(self, depth: int) -> list[Node]:
        return [self.branch(depth) for _ in range(self.rng.choice((1, 2, 2, 3)))]

    def gather(self, depth: int) -> Node:
        return ["gather", self.rng.random() < 0.3, *self.members(depth)]

    def group(self, depth: int) -> Node:
        return ["group", *self.members(depth)]

    def task(self, depth: int) -> Node:
        name = f"t{self.new()}"
        node = self.branch(depth)
        self.tasks.append(name)
        return ["task", name, node]

    def join(self, depth: int) -> Node:
        if not self.tasks:
            return self.task(depth)
        how = self.rng.choice(("await", "wait", "shield"))
        name = self.rng.choice(self.tasks)
        if how == "await":
            self.tasks.remove(name)
        return ["join", how, name]

    def joined(self, depth: int) -> Node:
        return ["join", "await", self.tasks.pop()] if self.tasks else self.task(depth)

    def cut_branch(self, depth: int) -> Node:
        """What runs as a task of its own, and may be cancelled."""
        cut, self.cut = self.cut, True
        node = self.branch(depth)
        self.cut = cut
        return node

    def moment(self) -> Node | None:
        """What its canceller does before it cancels a task."""
        turn = "at once" if self.cut else "turn"  # one that is cut waits in nothing of asyncio's
        how = self.rng.choice(("at once", turn, "sleep", "sleep", "step", "step", "simple"))
        match how:
            case "at once":
                return None
            case "turn":
                return ["turn"]
            case "sleep":
                return ["sleep", self.seconds()]
            case "step":
                return self.simple_step()
        return self.simple()

    def cancel(self, depth: int) -> Node:
        """A task that is cancelled, perhaps twice, and awaited; `passes`: its canceller is cancelled as well, then."""
        moments = [self.moment() for _ in range(self.rng.choice((1, 1, 2)))]
        passes = self.cut and self.rng.random() < 0.5
        return ["cancel", passes, moments, self.cut_branch(depth)]

    def broken(self, depth: int) -> Node:
        """A task group, one of whose members fails."""
        bad = ["sequence", *[self.simple() for _ in range(self.rng.choice((0, 1, 1, 2)))]]
        members = [self.cut_branch(depth) for _ in range(self.rng.choice((1, 2, 2)))]
        body = self.rng.choice((None, self.simple()))
        return ["broken", self.rng.randrange(len(members) + 1), bad, body, *members]

    def cleanup(self, depth: int) -> Node:
        last = self.rng.choice((self.simple_step(), ["set", self.rng.choice("xy"), self.new()]))
        return ["guard", self.rng.choice(("finally", "cancelled")), self.sequence(depth), last]

    def stubborn(self, depth: int) -> Node:
        """Takes no notice of a cancellation, but for something it does."""
        return ["guard", "stubborn", self.sequence(depth), self.simple_step()]

    def first(self, depth: int) -> Node:
        return ["first", self.rng.random() < 0.5, *self.members(depth)]

    def shield(self, depth: int) -> Node:
        return ["shield", self.branch(depth)]

    def completed(self, depth: int) -> Node:
        return ["completed", *self.members(depth)]

    def guard(self, depth: int) -> Node:
        how = "error" if self.limited else self.rng.choice(("finally", "cancelled", "error"))
        return ["guard", how, self.sequence(depth), self.simple_step()]

    def simple_step(self) -> Node:
        return ["step", self.new(), self.rng.choice((0, 1, 5, 60))]

    def children(self, _: int) -> Node:
        specs = [[self.new(), self.rng.choice((0, 5, 60, 300))] for _ in range(2)]
        return ["children", self.rng.random() < 0.5, *specs]
