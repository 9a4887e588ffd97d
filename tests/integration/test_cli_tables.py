"""Tables in terminals that are narrow: a line for each row, times whole, and what is missing said."""

from __future__ import annotations

import asyncio
import os
import pty
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import product

import pytest
from support.command import in_process

from everstep import App, Client, WorkflowError

ID = "order-7-of-a-customer-in-argentina"
COMMANDS = (
    (("workflow", "list", "--name", "checkout"), 2),
    (("workflow", "steps", ID), 1),
    (("schedule", "list"), 2),
    (("queue", "list"), 1),
    (("version", "list"), 1),
)
TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Look = Callable[..., Awaitable[tuple[list[str], str]]]


@pytest.fixture
def look(database: str, capsys, monkeypatch: pytest.MonkeyPatch) -> Look:
    """`await look(100, "workflow", "list")`: the lines a terminal of that width shows, and what is said besides."""
    monkeypatch.setenv("EVERSTEP_DATABASE_URL", database)
    monkeypatch.setenv("TERM", "xterm")

    async def run(width: int, *command: str) -> tuple[list[str], str]:
        terminal, end = pty.openpty()
        with monkeypatch.context() as patch, os.fdopen(terminal, "rb", buffering=0) as shown:
            patch.setenv("COLUMNS", str(width))
            everstep = in_process(capsys)
            with os.fdopen(end, "w") as out:
                patch.setattr("sys.stdout", out)
                reading = asyncio.create_task(asyncio.to_thread(_read, shown))
                said = await asyncio.to_thread(everstep, *command)
            assert said.code == 0, said
            return (await reading).splitlines(), said.err

    return run


def _read(terminal) -> str:
    read = bytearray()
    with suppress(OSError):  # how a terminal tells that nobody writes to it any more
        while part := terminal.read(65_536):
            read += part
    return COLOUR.sub("", read.decode())


@pytest.fixture
async def history(app: App, client: Client, worker) -> None:
    """Two workflows that have ended, one of them badly, and two schedules."""

    @app.step(name="charge_the_card")
    async def charge_the_card(n: int) -> list[str]:
        return ["a line of the receipt"] * n

    @app.workflow(name="checkout")
    async def checkout(n: int) -> int:
        await charge_the_card(20)
        if n == 7:
            raise ValueError("the warehouse has no screwdrivers left:\nask again tomorrow at nine")
        return n

    @app.schedule("*/5 9-17 * * MON-FRI", timezone="America/Argentina/Buenos_Aires", name="report")
    async def daily_report(tick: datetime) -> None: ...

    @app.schedule(every=timedelta(days=90), name="poll")
    async def poll(tick: datetime) -> None: ...

    await worker()
    await (await client.start(checkout, 1, id="order-1")).result(20)
    with pytest.raises(WorkflowError):
        await (await client.start(checkout, 7, id=ID)).result(20)


@pytest.mark.usefixtures("history")
async def test_a_row_is_a_line_and_a_time_is_whole(look: Look):
    for width, (command, rows) in product((80, 100, 140), COMMANDS):
        lines, _ = await look(width, *command)
        assert len(lines) == 1 + rows, "\n".join(lines)
        for line in lines:
            assert len(line) <= width, line
            assert not re.search(r"\d-\d|\d:\d", TIME.sub("", line).replace("9-17", "")), line


@pytest.mark.usefixtures("history")
async def test_what_has_no_room_is_said(look: Look):
    lines, said = await look(80, "workflow", "list", "--name", "checkout")
    assert lines[0].split() == ["ID", "NAME", "STATUS", "ERROR"]
    assert lines[1].split(maxsplit=3)[:3] == [ID, "checkout", "failed"]
    assert lines[1].endswith("…")
    assert said == "… a wider terminal shows QUEUE, VERSION, CREATED, FINISHED\n"

    lines, said = await look(300, "workflow", "list", "--name", "checkout")
    assert lines[1].rstrip().endswith("left: ask again tomorrow at nine")
    assert said == ""


@pytest.mark.usefixtures("history")
async def test_a_column_that_says_nothing_is_not_missed(look: Look):
    lines, said = await look(140, "workflow", "steps", ID)
    assert "BRANCH" not in lines[0]
    assert "ERROR" not in lines[0]
    assert "RECORDED" in lines[0]
    assert said == ""
