"""`everstep worker` as a process: what it logs, how it is stopped, what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.command import spawn
from support.database import Sql
from support.waiting import eventually, eventually_now

from everstep import Client

APP = """
import asyncio, time
from everstep import App
app = App("leaver")

@app.step
async def slow(seconds: float) -> float:
    print("step begins", flush=True)
    await asyncio.sleep(seconds)
    return seconds

@app.step
def stuck(seconds: float) -> float:
    print("step begins", flush=True)
    time.sleep(seconds)
    return seconds

@app.workflow(name="slow")
async def slow_flow(seconds: float) -> float:
    return await slow(seconds)

@app.workflow(name="stuck")
def stuck_flow(seconds: float) -> float:
    return stuck(seconds)
"""


class Started:
    """A worker process and its log."""

    def __init__(self, folder: Path, database: str, *arguments: str, **extra: str) -> None:
        (folder / "leaver.py").write_text(APP)
        self.log = folder / "worker.log"
        self.process = spawn(
            *("worker", "leaver:app", "--port", "0", *arguments),
            cwd=folder,
            out=self.log,
            EVERSTEP_DATABASE_URL=database,
            **extra,
        )

    def said(self, words: str) -> str:
        """The log, once it holds these words."""
        return eventually_now(
            lambda: self.log.read_text() if words in self.log.read_text() else "",
            within=30,
            what=f"{words!r} in the log",
        )


@pytest.fixture
def start(tmp_path: Path, database: str):
    started: list[Started] = []

    def begin(*arguments: str, **extra: str) -> Started:
        started.append(Started(tmp_path, database, *arguments, **extra))
        started[-1].said("probes and metrics on port")
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_steps_finish_and_exits_0(
    start, client: Client, sql: Sql, number: signal.Signals
):
    worker = start()
    handle = await client.start_named("slow", {"seconds": 0.7})
    worker.said("step begins")
    worker.process.send_signal(number)
    assert worker.process.wait(30) == 0
    assert sql.one("SELECT state FROM everstep.worker") == 3
    # Its step was recorded; what came after it, if anything, is left to the next worker.
    assert len(await handle.steps()) == 1
    assert sql.one("SELECT count(*) FROM everstep.run WHERE state = 2") == 0


async def test_what_outlasts_the_grace_period_is_given_back_and_the_process_leaves(
    start, client: Client, sql: Sql
):
    worker = start(EVERSTEP_GRACE_SECONDS="0.3")
    await client.start_named("stuck", {"seconds": 600})
    worker.said("step begins")
    worker.process.send_signal(signal.SIGTERM)
    # A thread cannot be stopped: the process leaves without it.
    assert worker.process.wait(30) == 0
    (run,) = sql("SELECT state, crashes, epoch FROM everstep.run")
    assert (run.state, run.crashes) == (1, 0)


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(
    start, client: Client, sql: Sql, tmp_path: Path
):
    worker = start(EVERSTEP_GRACE_SECONDS="600", EVERSTEP_LEASE_SECONDS="1.5")
    handle = await client.start_named("slow", {"seconds": 600})
    worker.said("step begins")
    worker.process.send_signal(signal.SIGTERM)
    worker.said("stopping")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 128 + signal.SIGTERM
    # Nobody gave it back: the next worker's sweep does.
    start(EVERSTEP_LEASE_SECONDS="1.5")
    await eventually(
        lambda: sql("SELECT id FROM everstep.run WHERE state = 2 AND epoch >= 3"), within=30
    )
    assert await handle.cancel()


def test_a_signal_while_it_starts_ends_it(tmp_path: Path, postgres):
    # A server that accepts and says nothing: the worker is still connecting.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x"
        worker = Started(tmp_path, url)
        connection, _ = silent.accept()
        with connection:
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(30) == 0, worker.log.read_text()


def test_its_port_answers_and_every_line_is_json(start, database: str):
    worker = start("--log-format", "json", EVERSTEP_APP="named", EVERSTEP_VERSION="v7")
    events = [json.loads(line) for line in worker.said("probes").splitlines()]
    assert {(e["app"], e["version"], e["level"] != "") for e in events} == {("named", "v7", True)}
    port = re.search(r"metrics on port (\d+)", events[-1]["message"])
    assert port is not None
    for path in ("livez", "readyz", "metrics"):
        with urlopen(f"http://127.0.0.1:{port[1]}/{path}", timeout=30) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("variable", "value"), [("EVERSTEP_CONCURRENCY", "many"), ("EVERSTEP_VERSION", "a b")]
)
def test_a_wrong_setting_is_exit_code_2(tmp_path: Path, database: str, variable: str, value: str):
    worker = Started(tmp_path, database, **{variable: value})
    assert worker.process.wait(30) == 2
    said = worker.log.read_text()
    assert value in said
    assert "Traceback" not in said


def test_a_port_in_use_is_exit_code_2(tmp_path: Path, database: str):
    import socket

    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        worker = Started(tmp_path, database, "--port", str(port))
        assert worker.process.wait(30) == 2
        assert f"on port {port}" in worker.log.read_text()
