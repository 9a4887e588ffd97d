"""Workflows that are bad for the process they run in: they block its loop, hold its GIL, eat its memory, kill it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import everstep
from everstep import App
from support.ledger import Ledger

app = App("trouble")
ledger = Ledger(Path(os.environ["LEDGER"]))
STOP = Path(os.environ.get("STOP", os.devnull))
SLOWEST_STEP_SECONDS = float(os.environ.get("SLOWEST_STEP_SECONDS", "0.05"))


def _first_time(what: str) -> bool:
    """Notes this execution; whether it is the first of this step."""
    key = everstep.step_context().idempotency_key
    ledger.write(key, what)
    return ledger.executions()[key] == 1


@app.step
async def blocks_the_loop(seconds: float) -> int:
    _first_time("blocks")
    time.sleep(seconds)  # noqa: ASYNC251
    return os.getpid()


@app.step
async def holds_the_gil() -> int:
    """The first time; a call into C that never lets another thread run, as a large power or a regex may be.

    It returns once somebody opens the other end.
    """
    if _first_time("holds"):
        ctypes.PyDLL(None).open(os.environb[b"UNTIL"], os.O_RDONLY)
    return os.getpid()


@app.step
async def aborts() -> None:
    _first_time("aborts")
    os.abort()


@app.step
async def overflows_the_stack() -> None:
    """Recursion in C, without the interpreter's guard: the process dies of it."""
    _first_time("overflows")
    sys.setrecursionlimit(1_000_000_000)
    nested: list[Any] = []
    for _ in range(1_000_000):
        nested = [nested]
    repr(nested)


@app.step
async def interrupts() -> None:
    """What Ctrl-C raises: it ends the loop, and with it the worker, which leaves in an orderly way."""
    _first_time("interrupts")
    raise KeyboardInterrupt


@app.step
async def recurses() -> None:
    """Recursion in Python, which the interpreter ends."""
    _first_time("recurses")

    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    deeper(0)


@app.step
async def eats_memory() -> None:
    """Up to a limit of the process, which then cannot get any more."""
    _first_time("eats")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (64 << 20), hard))
    eaten = []
    try:
        while True:
            eaten.append(bytearray(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@app.step
async def innocent_step(number: int) -> bool:
    """Whether to stop, which a file decides."""
    ledger.write(everstep.step_context().idempotency_key, "innocent")
    await asyncio.sleep(random.uniform(0, SLOWEST_STEP_SECONDS))
    return STOP.exists()  # noqa: ASYNC240


@app.workflow
async def innocent(number: int) -> int:
    await innocent_step(number)
    await innocent_step(number)
    return number


@app.workflow
async def goes_on(number: int) -> int:
    """Steps, one after the other, until it is told to stop."""
    steps = 1
    while not await innocent_step(number):
        steps += 1
    return steps


def _add(step: Any) -> None:
    @app.workflow(name=f"w_{step.function.__name__}")
    async def only(seconds: float = 0.0) -> Any:
        return await step(*([seconds] if seconds else []))


for one in (
    blocks_the_loop,
    holds_the_gil,
    aborts,
    overflows_the_stack,
    interrupts,
    recurses,
    eats_memory,
):
    _add(one)
