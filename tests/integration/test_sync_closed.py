"""A plain client that is closed answers whoever still waits, and whoever comes later, with what to do instead."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.waiting import eventually_now

from everstep import App, UsageError, sync


@pytest.mark.parametrize("what", ["event", "stream", "result"])
def test_who_waits_when_the_client_closes_is_told(database: str, app: App, what: str) -> None:
    @app.workflow
    def work() -> None:
        return None

    client = sync.Client(database)
    client.open()
    handle = client.start(work)
    asked = threading.Event()
    begin = client._wait

    def wait(coroutine: Any) -> Any:
        asked.set()
        return begin(coroutine)

    client._wait = wait  # type: ignore[method-assign]
    calls = {
        "event": lambda: client.get_event(handle.id, "never"),
        "stream": lambda: next(client.read_stream(handle.id, "never")),
        "result": lambda: client.handle(work, handle.id).result(),
    }
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(calls[what])
        assert asked.wait(30)
        client.close()
        with pytest.raises(UsageError, match="closed"):
            waiting.result(30)


def test_a_handle_of_a_closed_client_says_that_it_is_closed(database: str, app: App) -> None:
    @app.workflow
    def work() -> None:
        return None

    with sync.Client.connect(database) as client:
        handle = client.start(work)
        schedules = client.schedules
        lines = client.read_stream(handle.id, "lines")
    for call in (handle.result, handle.info, schedules.list, lambda: next(lines)):
        with pytest.raises(UsageError, match="closed"):
            call()


def test_what_the_client_itself_calls_cannot_wait_for_it(database: str, app: App) -> None:
    """`progress` and the inputs of start_many run where the client does: waiting there would be for ever."""

    @app.workflow
    def work(number: int) -> None:
        return None

    with sync.Client.connect(database) as client, ThreadPoolExecutor(1) as pool:
        ask = lambda _: client.list()  # noqa: E731
        started = pool.submit(client.start_many, work, [(1,)], progress=ask)
        try:
            with pytest.raises(UsageError, match="own thread"):
                started.result(30)
        finally:
            # A thread that waits for ever would hold up the end of this test.
            eventually_now(lambda: started.done() or client.close() is None)
