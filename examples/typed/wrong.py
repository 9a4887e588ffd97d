"""Mistakes that a type checker finds before anything runs; each line says by which code mypy names it.

Never run. tests/integration/test_typed_example.py checks that mypy reports these, and nothing else.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from repairs import Bike, Bill, book, mend, month_end, one_quote, post, quote, repair, tell

import everstep
from everstep import App, Client, Retry, sync

app = App("wrong")
bike = Bike(1, "ada", ["bell"])


@app.workflow
async def in_async() -> int:
    await quote(1)  # error: arg-type
    await quote("bell", "gear")  # error: call-arg
    await quote()  # error: call-arg
    cents: int = quote("bell")  # error: assignment
    text: str = await quote("bell")  # error: assignment
    quote("bell")  # error: unused-coroutine
    await mend(bike, "bell")  # error: misc
    await everstep.run(mend, bike)  # error: call-overload
    await everstep.run(mend, bike, 1)  # error: call-overload
    await book(1)  # error: arg-type
    await tell("ada", 1)  # error: arg-type
    await tell("ada")  # error: call-arg
    tell("ada", Bill(1, 1))  # error: unused-coroutine
    await post("letter")  # error: misc
    bill: Bill = await tell("ada", Bill(1, 1))  # error: assignment
    await everstep.start(one_quote, 1)  # error: arg-type
    await everstep.start(quote, "bell")  # error: arg-type
    await everstep.sleep("a day")  # error: arg-type
    await everstep.sleep_until(timedelta(days=1))  # error: arg-type
    everstep.set_event("open", True)  # error: unused-coroutine
    number: int = await everstep.recv("number", as_type=str)  # error: arg-type
    await everstep.wait_for(quote("bell"), "soon")  # error: arg-type
    one, two = await asyncio.gather(quote("a"), tell("b", Bill(1, 1)))
    return two  # error: return-value


@app.workflow
def in_plain() -> int:
    cents: int = sync.run(tell, "ada", Bill(1, 1))  # error: assignment
    price: int = quote("bell")  # error: assignment
    sync.run(quote, 1)  # error: call-overload
    mend(bike)  # error: call-arg
    sync.start(one_quote, "a", "b")  # error: call-arg
    sync.call(mend, bike, 1)  # error: call-overload
    number, text = sync.gather(sync.call(quote, "a"), sync.call(mend, bike, "b"))
    sync.gather(mend(bike, "bell"))  # error: call-overload
    sync.sleep(None)  # error: arg-type
    result: str = sync.start(one_quote, "a").result()  # error: assignment
    return text  # error: return-value


async def at_the_desk(client: Client) -> None:
    await client.start(repair, "bike 1")  # error: misc
    await client.start(repair)  # error: arg-type
    await client.start(repair, bike, "2")  # error: misc
    await client.start(repair, bike, priority="high")  # error: call-overload
    await client.start(repair, bike, prio=1)  # error: call-overload
    await client.start(repair, bike, delay="soon")  # error: call-overload
    await client.start(quote, "bell")  # error: call-overload
    total: int = await (await client.start(repair, bike)).result()  # error: assignment
    await client.handle(month_end, "m").result() + 1  # error: operator


@app.step(retry=3)  # error: call-overload, untyped-decorator
async def bad_retry() -> None: ...


@app.step(retry=Retry(max_attempts="3"))  # error: arg-type
async def bad_attempts() -> None: ...


@app.workflow(queue=7)  # error: call-overload, untyped-decorator
async def bad_queue() -> None: ...
