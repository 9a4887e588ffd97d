"""The application of the random programs (`programs`): one workflow that carries out what its input says.

It looks at itself: what it has seen so far is kept by a step now and then, and a replay that sees anything else fails,
and so does one that finds a step's value in place of another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import everstep
from everstep import App, Retry, StepError, WorkflowError
from support.programs import SIMPLE

Node = list[Any]
PARKED_SECONDS = 1.1
"""Longer than a workflow stays: it is replayed after that."""

app = App("programs")


def name_of(number: int) -> str:
    return f"p{number:04}"


@app.step
async def step(n: int, milliseconds: float) -> int:
    await asyncio.sleep(milliseconds / 1000)
    return n


@app.step(retry=Retry(max_attempts=3, interval=timedelta(milliseconds=40)))
async def flaky(n: int, milliseconds: float) -> int:
    await asyncio.sleep(milliseconds / 1000)
    if everstep.step_context().attempt < 3:
        raise ValueError("not yet")
    return n


@app.step(retry=Retry(max_attempts=1))
async def fail(n: int, milliseconds: float) -> int:
    await asyncio.sleep(milliseconds / 1000)
    raise ValueError(f"{n} fails")


@app.step
async def keep(seen: list[Any]) -> list[Any]:
    return seen


@app.workflow
async def child(n: int, milliseconds: float) -> int:
    if milliseconds >= 300:
        await everstep.sleep(milliseconds / 1000)
    value = await step(n, milliseconds)
    if milliseconds == 5:
        raise ValueError("a child fails")
    return value


class ReplayDiffers(BaseException):
    """No Exception, so that no program takes it for its own."""


def same(n: int, value: Any, what: str) -> Any:
    if n != value:
        raise ReplayDiffers(f"{what} {n} has the value of {value}")
    return value


@app.workflow
async def program(given: dict[str, Any]) -> Any:
    branch = Interpreter()
    seen: list[Any] = []
    for statement in given["body"][1:]:
        seen.append(await branch.run(statement))
        if given["keeps"]:
            await compare(seen)
    await everstep.set_event("end", given["number"])
    await compare(seen)
    for _ in range(2):
        await everstep.sleep(PARKED_SECONDS)
        await compare(seen)
    return seen


async def compare(seen: list[Any]) -> None:
    kept = await keep(list(seen))
    if kept != seen:
        raise ReplayDiffers(f"it saw {kept}, and its replay {seen}")


class Bad(Exception):
    """Of the member that fails of a task group."""


class Interpreter:
    """Carries out the statements of one branch.

    `notes`: what its simple statements came to, also if it was cancelled after that, and the notes of those branches that
    it has awaited to their end.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.below: dict[str, Interpreter] = {}
        self.notes: list[Any] = []

    async def run(self, node: Node) -> Any:
        """What a statement comes to."""
        kind, *rest = node
        value = await getattr(self, f"do_{kind}")(*rest)
        if kind in SIMPLE:
            self.notes.append(value)
        return value

    async def do_sequence(self, *statements: Node) -> Any:
        return [await self.run(statement) for statement in statements]

    def branch(self, node: Node) -> Any:
        return Interpreter().run(node)

    # -- simple ones

    async def do_step(self, n: int, ms: float) -> Any:
        return same(n, await step(n, ms), "step")

    async def do_flaky(self, n: int, ms: float) -> Any:
        return same(n, await flaky(n, ms), "step")

    async def do_fail(self, n: int, ms: float) -> Any:
        try:
            await fail(n, ms)
        except StepError as error:
            if f"{n} fails" not in str(error):
                raise ReplayDiffers(f"step {n} failed with {error}") from None
            return "failed"
        raise ReplayDiffers(f"step {n} did not fail")

    async def do_sleep(self, seconds: float) -> Any:
        await everstep.sleep(seconds)
        return "slept"

    async def do_recv(self, topic: str, seconds: float | None) -> Any:
        try:
            return await everstep.recv(topic, timeout=seconds)
        except TimeoutError:
            return "no message"

    async def do_send(self, to: int, topic: str) -> Any:
        await everstep.send(name_of(to), "from a program", topic)
        return "sent"

    async def do_set(self, key: str, n: int) -> Any:
        await everstep.set_event(key, n)
        return "set"

    async def do_get(self, of: int, key: str, seconds: float | None) -> Any:
        try:
            return await everstep.get_event(name_of(of), key, timeout=seconds)
        except TimeoutError:
            return "no event"

    async def do_child(self, n: int, ms: float) -> Any:
        try:
            return same(n, await child(n, ms), "child")
        except WorkflowError:
            return "child failed"

    async def do_children(self, first: bool, *specs: list[Any]) -> Any:
        handles = [await everstep.start(child, *spec) for spec in specs]
        results: list[Any] = []
        if first:
            results.append((await everstep.wait_first(handles)).id)
        for handle in handles:
            try:
                results.append(await handle.result())
            except WorkflowError:
                results.append("child failed")
        return results

    async def do_now(self) -> Any:
        return str(await everstep.now())

    async def do_uuid(self) -> Any:
        return str(await everstep.uuid())

    # -- those that hold others

    async def do_limit(self, how: str, seconds: float, body: Node) -> Any:
        # How far the block had come is not told: what it awaited may be there at a replay.
        notes, self.notes = self.notes, []
        try:
            return await self.limited(how, seconds, body)
        finally:
            self.notes = notes

    async def limited(self, how: str, seconds: float, body: Node) -> Any:
        try:
            match how:
                case "timeout":
                    async with everstep.timeout(seconds):
                        return await self.run(body)
                case "asyncio":
                    async with asyncio.timeout(seconds):
                        return await self.run(body)
            return await everstep.wait_for(self.run(body), seconds)
        except TimeoutError:
            return "late"

    async def do_gather(self, quiet: bool, *members: Node) -> Any:
        below = [Interpreter() for _ in members]
        work = [one.run(member) for one, member in zip(below, members, strict=True)]
        together = asyncio.gather(*work, return_exceptions=quiet)  # or a replay is cancelled here
        try:
            return await together
        finally:
            if quiet:  # else it does not wait for all of them, once it is cancelled
                self.take_notes(below)

    async def do_group(self, *members: Node) -> Any:
        below = [Interpreter() for _ in members]
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                for one, member in zip(below, members, strict=True):
                    tasks.append(
                        group.create_task(one.run(member))
                    )  # or a replay is cancelled here
        finally:
            if len(tasks) == len(members):
                self.take_notes(below)
        return [task.result() for task in tasks]

    def take_notes(self, below: Iterable[Interpreter]) -> None:
        self.notes.append([one.notes for one in below])

    async def do_task(self, name: str, body: Node) -> Any:
        self.below[name] = Interpreter()
        self.tasks[name] = asyncio.create_task(self.below[name].run(body))
        return name

    async def do_turn(self) -> Any:
        await asyncio.sleep(0)

    async def do_cancel(self, passes: bool, moments: list[Node | None], body: Node) -> Any:
        below = Interpreter()
        task = asyncio.create_task(below.run(body))
        for moment in moments:
            if moment is not None:
                await self.run(moment)
            task.cancel()
        end = "returned"
        try:
            await task
        except asyncio.CancelledError:
            end = "cancelled"
            if passes:
                raise
        finally:
            self.notes.append([end, below.notes])
        return [end, below.notes]

    async def do_broken(self, nth: int, moves: Node, body: Node | None, *members: Node) -> Any:
        below = [Interpreter() for _ in range(len(members) + 1)]

        async def bad() -> None:
            await below[-1].run(moves)
            raise Bad

        work = [partial(one.run, member) for one, member in zip(below, members, strict=False)]
        work.insert(nth, bad)
        inside = Interpreter()
        try:
            async with asyncio.TaskGroup() as group:
                for each in work:
                    group.create_task(each())
                if body is not None:
                    await inside.run(body)
        except* Bad:
            pass
        self.take_notes([*below, inside])
        return [one.notes for one in (*below, inside)]

    async def do_join(self, how: str, name: str) -> Any:
        task = self.tasks.get(name)
        if task is None:
            return "no task"
        if how == "await":
            try:
                return await task
            finally:
                self.notes.append(self.below[name].notes)
        if how == "wait":
            await asyncio.wait({task})
        return "cancelled" if task.done() and task.cancelled() else await asyncio.shield(task)

    async def do_first(self, leave: bool, *members: Node) -> Any:
        tasks = [asyncio.create_task(self.branch(member)) for member in members]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if leave:
            return "left"
        await asyncio.wait(tasks)
        return [task.result() for task in tasks]

    async def do_shield(self, body: Node) -> Any:
        return await asyncio.shield(self.branch(body))

    async def do_completed(self, *members: Node) -> Any:
        return [value async for value in everstep.as_completed(map(self.branch, members))]

    async def do_guard(self, how: str, body: Node, cleanup: Node) -> Any:
        kinds = {"finally": BaseException, "cancelled": asyncio.CancelledError, "error": Exception}
        kinds["stubborn"] = asyncio.CancelledError
        try:
            value = await self.run(body)
        except kinds[how] as error:
            if isinstance(error, (Exception, asyncio.CancelledError)):
                await self.run(cleanup)
            if how != "stubborn":
                raise
            return "went on"
        if how == "finally":
            await self.run(cleanup)
        return value
