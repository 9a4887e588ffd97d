"""What a client answers to calls that are wrong: at once, and with what to do instead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import everstep
from everstep import App, Client, Filter, UnknownWorkflowError, UsageError, WorkflowError

Call = Callable[[Client, Any], Awaitable[Any]]

SECOND = timedelta(seconds=1)

WRONG: dict[str, tuple[Call, str]] = {
    "an argument by keyword": (
        lambda c, w: c.start(w, number=1),
        "has no option number; .* given by position",
    ),
    "too many arguments": (lambda c, w: c.start(w, 1, 2), "at most 1 arguments by position, got 2"),
    "an argument of another type": (
        lambda c, w: c.start(w, "one"),
        r'workflow count: \{"number":"one"\} does not fit its annotation',
    ),
    "an id that is no text": (lambda c, w: c.start(w, 1, id=7), "a workflow id is a text, not 7"),
    "a key that is no text": (
        lambda c, w: c.start(w, 1, dedup=7),
        "a deduplication key is a text of 1 to 512 bytes, not 7",
    ),
    "an empty key": (lambda c, w: c.start(w, 1, dedup=""), "a deduplication key is a text"),
    "a policy that is none": (
        lambda c, w: c.start(w, 1, on_existing="retrun"),
        "on_existing is one of return, reject, restart, not 'retrun'",
    ),
    "another policy that is none": (
        lambda c, w: c.start(w, 1, dedup="k", on_duplicate="skip"),
        "on_duplicate is one of reject, return, not 'skip'",
    ),
    "a delay into the past": (
        lambda c, w: c.start(w, 1, delay=-5 * SECOND),
        "delay is between 0 seconds and 100 years, not -5 seconds",
    ),
    "a delay in words": (
        lambda c, w: c.start(w, 1, delay="1s"),
        "delay is a timedelta or a number of seconds, not '1s'",
    ),
    "a timeout in words": (
        lambda c, w: c.handle(w, "any").result(timeout="1s"),
        "a timeout is a timedelta or a number of seconds, not '1s'",
    ),
    "starts without tuples": (
        lambda c, w: c.start_many(w, [1, 2]),
        "a tuple of arguments for each workflow, not 1",
    ),
    "starts of texts": (
        lambda c, w: c.start_many(w, ["7"]),
        "a tuple of arguments for each workflow, not '7'",
    ),
    "a name that no column takes": (
        lambda c, _: c.start_named("\ud800", {}),
        r"a workflow has a printable name of 1 to 200 bytes, not '\\ud800'",
    ),
    "a name that is none": (lambda c, _: c.start_named(7, {}), "a printable name .*, not 7"),  # type: ignore[arg-type]
    "an input by position": (
        lambda c, _: c.start_named("count", [1]),  # type: ignore[arg-type]
        r"the input of workflow count is a dict of its parameters by name, not \[1\]",
    ),
    "a handle of no text": (lambda c, w: c.handle(w, 7).result(), "a workflow id is a text"),
    "a handle that no column takes": (
        lambda c, _: c.handle_named("\ud800").result(),
        "a workflow id is a text",
    ),
    "a question about no text": (lambda c, _: c.get(7), "a workflow id is a text .*, not 7"),  # type: ignore[arg-type]
    "steps of no text": (lambda c, _: c.steps("\ud800"), "a workflow id is a text"),
    "the end of no text": (lambda c, _: c.cancel("a\0b"), "a workflow id is a text"),
    "attributes that there cannot be": (
        lambda c, _: c.list(Filter(attributes={"a": "\0"})),
        r"no workflow can be what Filter\(.* asks for",
    ),
    "steps of a workflow that is none": (
        lambda c, _: c.steps("nosuch"),
        "there is no workflow with id 'nosuch'",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_call_says_what_is_wrong(app: App, client: Client, wrong: str) -> None:
    @app.workflow(name="count")
    async def count(number: int) -> int:
        return number

    call, message = WRONG[wrong]
    with pytest.raises(UsageError, match=message):
        async with asyncio.timeout(30):
            await call(client, count)
    assert not await client.list()


async def test_a_workflow_without_steps_has_none(app: App, client: Client) -> None:
    @app.workflow
    async def idle() -> None:
        pass

    handle = await client.start(idle)
    assert await handle.steps() == []
    with pytest.raises(UnknownWorkflowError):
        await client.handle(idle, "nosuch").steps()


async def test_a_client_that_is_not_open_says_so(app: App, database: str) -> None:
    @app.workflow
    async def idle() -> None:
        pass

    client = Client(database)
    for call in (client.start(idle), client.get("any"), client.handle(idle, "any").result()):
        with pytest.raises(UsageError, match=r"not open: `async with Client\.connect"):
            async with asyncio.timeout(30):
                await call
    await client.open()
    await client.start(idle)
    await client.close()


async def test_the_error_of_a_child_names_it_and_shows_the_users_code_only(
    app: App, client: Client, worker: Any
) -> None:
    @app.step
    async def mend(part: str) -> None:
        raise LookupError(f"no {part}")

    @app.workflow
    async def child(part: str) -> None:
        await mend(part)

    @app.workflow
    async def parent(part: str) -> str:
        try:
            await child(part)
        except WorkflowError as error:
            return str(error)
        return ""

    await worker()
    told = await (await client.start(parent, "bell", id="p")).result(30)
    assert told == "workflow 'p/1' failed: LookupError: no bell"
    with pytest.raises(WorkflowError) as caught:
        await client.handle(child, "p/1").result(30)
    frames = [line for line in caught.value.failure.traceback.splitlines() if "File " in line]
    assert frames
    assert all(__file__ in frame for frame in frames)


app_of_one_step = App("misnamed")


@app_of_one_step.step
async def named() -> None: ...


@app_of_one_step.transaction
async def booked(tx: everstep.Connection) -> None: ...


def call_as(name: Any) -> Any:
    return named.options(name=name)()


def book_as(name: Any) -> Any:
    return booked.options(name=name)()


MISNAMED: dict[str, Callable[[], Any]] = {
    "a step": partial(call_as, 7),
    "a step without UTF-8": partial(call_as, "\ud800"),
    "a step with NUL": partial(call_as, "a\0b"),
    "a step without a name": partial(call_as, ""),
    "a transaction": partial(book_as, "\ud800"),
    "an event": lambda: everstep.set_event(7, 1),  # type: ignore[arg-type]
    "an event without UTF-8": lambda: everstep.set_event("\ud800", 1),
    "an event of a thousand": lambda: everstep.set_event("x" * 1_000, 1),
    "an event read": lambda: everstep.get_event("any", None),  # type: ignore[arg-type]
    "a workflow's event": lambda: everstep.get_event(7, "any"),  # type: ignore[arg-type]
    "a topic": lambda: everstep.recv(7),  # type: ignore[call-overload]
    "a topic sent": lambda: everstep.send("any", 1, 7),  # type: ignore[arg-type]
    "a receiver": lambda: everstep.send(7, 1),  # type: ignore[arg-type]
    "a stream": lambda: everstep.write_stream(b"s", 1),  # type: ignore[arg-type]
    "the end of a stream": lambda: everstep.close_stream("a\0b"),
    "a patch": lambda: everstep.patched(7),  # type: ignore[arg-type]
    "no handles": lambda: everstep.wait_first(["any"]),  # type: ignore[list-item]
    "no workflow": lambda: everstep.start(len, "any"),  # type: ignore[arg-type]
}


async def test_a_name_that_cannot_be_stored_fails_its_own_workflow_and_disturbs_no_other(
    app: App, client: Client, worker: Any
) -> None:
    @app.workflow
    async def misnamed(which: str) -> None:
        await MISNAMED[which]()

    running = await worker()
    tenure = running.tenure
    for which in MISNAMED:
        with pytest.raises(WorkflowError, match=r"UsageError: .* not ") as caught:
            await (await client.start(misnamed, which)).result(30)
        assert caught.value.failure.type == "everstep.errors.UsageError"
    assert running.tenure is tenure


class Unusual(BaseException):
    """As pytest.fail raises one."""


@pytest.mark.parametrize("colour", ["async", "plain"])
async def test_an_error_that_is_no_exception_fails_its_workflow_only(
    app: App, client: Client, worker: Any, colour: str
) -> None:
    if colour == "async":

        @app.workflow(name="raises")
        async def raises() -> None:
            raise Unusual("unusual")
    else:

        @app.workflow(name="raises")
        def raises_plainly() -> None:
            raise Unusual("unusual")

    running = await worker()
    tenure = running.tenure
    with pytest.raises(WorkflowError, match="Unusual: unusual"):
        await (await client.start_named("raises", {})).result(30)
    assert running.tenure is tenure
