"""`everstep worker`: one worker process, from its module to its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

import click

from everstep.app import App
from everstep.cli import logs, options
from everstep.cli.loading import load_app
from everstep.cli.teaching import Taught
from everstep.engine.worker import Worker
from everstep.settings import Settings

log = logging.getLogger("everstep")

LEAVE_SECONDS = 3.0
"""After a worker has left, for threads that plain functions still occupy."""


@click.command(
    cls=Taught,
    examples=[
        "everstep worker app:app",
        "everstep worker orders.app:app --queue checkout --log-format json",
    ],
)
@click.argument("app", type=load_app, metavar="MODULE:APP")
@options.database
@click.option(
    "--queue", "queues", multiple=True, metavar="NAME", help="Listen to this queue only; repeatable"
)
@click.option("--concurrency", type=int, help="Workflows at a time (EVERSTEP_CONCURRENCY) [200]")
@click.option(
    "--port", type=int, help="Port of probes and metrics, 0 for any (EVERSTEP_PORT) [9464]"
)
@click.option("--pod", metavar="NAME", help="Name for people (EVERSTEP_POD) [the host's name]")
@options.logging
def command(
    *,
    app: App,
    url: str | None,
    schema: str | None,
    queues: tuple[str, ...],
    concurrency: int | None,
    port: int | None,
    pod: str | None,
    log_format: str,
    log_level: str,
) -> None:
    """Run the workflows of an App until SIGTERM or Ctrl-C.

    MODULE:APP names the App object, for example `orders.app:app`; the current folder is importable.
    On the first signal the worker claims nothing more, lets running steps finish (EVERSTEP_GRACE_SECONDS),
    gives the rest back and exits 0. A second signal ends it at once; nothing is lost, only later.
    """
    settings = Settings.from_environment(
        url=url, schema=schema, concurrency=concurrency, port=port, pod=pod
    )
    facts = {"app": settings.app or app.name, "version": settings.version, "pod": settings.pod}
    logs.set_up(log_format, log_level, facts)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work(app, settings, list(queues) or None))


async def work(app: App, settings: Settings, queues: list[str] | None) -> None:
    """Run a worker until a signal. Raises what keeps it from starting."""
    stop = _stop_on_signals()
    worker = Worker(app, settings, queues)
    entering = asyncio.ensure_future(worker.__aenter__())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({entering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not entering.done():
        # Told to leave before it had arrived: there is nothing to give back yet.
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        return
    stopping.cancel()
    entering.result()
    log.info("probes and metrics on port %s", worker.port)
    try:
        await stop.wait()
        log.info("stopping: running steps have %g s, the rest is given back", settings.grace)
    finally:
        await worker.stop()
        _leave_within(LEAVE_SECONDS)


def _leave_within(seconds: float) -> None:
    """End the process even if threads of plain functions go on: what they did not finish runs elsewhere."""

    def leave() -> None:
        log.warning("plain functions are still running in threads: leaving without them")
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. A second one ends the process at once: its lease runs out."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("%s again: leaving at once", number.name)
            logging.shutdown()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
    return stop


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop
