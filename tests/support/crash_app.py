"""The reference workflow of the crash points and lost replies: a little of everything, once for each name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import everstep
from everstep import App, step_context
from everstep.errors import StepInterruptedError
from support.ledger import Ledger

BOOKINGS = "CREATE TABLE booking (key text, number integer)"
SLEEP_SECONDS = 1.1
"""Just long enough to park."""


def app_of(numbers: Iterable[int], ledger: Ledger) -> App:
    """An app with one reference workflow for each number, so that a worker runs those of its own only."""
    app = App("crash")
    steps = _steps(app, ledger)
    for number in numbers:
        _add_workflows(app, steps, number)
    return app


def _steps(app: App, ledger: Ledger) -> SimpleNamespace:
    def notice() -> None:
        ledger.write(step_context().idempotency_key, step_context().name)

    @app.step(name="effect")
    async def effect(number: int) -> int:
        notice()
        return number + 1

    @app.step(name="plain_effect")
    def plain_effect(number: int) -> int:
        notice()
        return number + 2

    @app.step(name="once", at_most_once=True)
    async def once() -> str:
        notice()
        return "ran"

    @app.transaction(name="book")
    async def book(tx: everstep.Connection, number: int) -> int:
        key = step_context().idempotency_key
        await tx.execute("INSERT INTO booking (key, number) VALUES (%s, %s)", [key, number])
        return number + 3

    return SimpleNamespace(effect=effect, plain_effect=plain_effect, once=once, book=book)


def _add_workflows(app: App, steps: SimpleNamespace, number: int) -> None:
    @app.workflow(name=f"child-{number}")
    async def child(parent: str) -> list[Any]:
        seen = await everstep.get_event(parent, "half")
        booked = await steps.book(number)
        await everstep.send(parent, {"of": number}, "news")
        return [seen, booked]

    @app.workflow(name=f"inline-{number}")
    async def inline() -> int:
        return int(await steps.effect(number))

    async def once_or_not() -> str:
        try:
            return str(await steps.once())
        except StepInterruptedError:
            return "interrupted"

    @app.workflow(name=f"reference-{number}")
    async def reference() -> dict[str, Any]:
        said: dict[str, Any] = {
            "step": await steps.effect(number),
            "booked": await steps.book(number),
            "once": await once_or_not(),
        }
        await everstep.set_event("half", number)
        await everstep.write_stream("lines", "first")
        await everstep.sleep(SLEEP_SECONDS)
        said["together"] = await asyncio.gather(
            steps.effect(number), asyncio.create_task(everstep.run(steps.plain_effect, number))
        )
        started = await everstep.start(child, everstep.workflow_id())
        said["heard"] = await everstep.recv("news")
        said["child"] = await started.result()
        said["inline"] = await inline()
        await everstep.close_stream("lines")
        return said


def expected(number: int, *, once: str = "ran") -> dict[str, Any]:
    return {
        "step": number + 1,
        "booked": number + 3,
        "once": once,
        "together": [number + 1, number + 2],
        "heard": {"of": number},
        "child": [number, number + 3],
        "inline": number + 1,
    }
