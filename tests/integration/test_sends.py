"""Sends go in groups, and each of them is as if it were alone: its order, its key, its error, its one message."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest
from support.cipher import Sealed
from support.database import Sql
from support.proxy import proxy_to
from support.server import Server
from support.waiting import eventually

from everstep import Client, sync
from everstep.client.grouped import MAX_ROWS
from everstep.encoding import PayloadPlace
from everstep.errors import PayloadError, UnknownWorkflowError, UsageError
from everstep.store.connection import connect

PARKED = (
    "WITH w AS (INSERT INTO everstep.workflow (id, name, queue, codec, input, created_at) "
    "SELECT 'w-' || n, 'w', 'q', 1, '{}', now() FROM generate_series(1, %(n)s) n) "
    "INSERT INTO everstep.run (id, name, queue, ready_at, state, epoch, wait_key) "
    "SELECT 'w-' || n, 'w', 'q', now(), 3, 1, 'message:t' FROM generate_series(1, %(n)s) n"
)
FINISHED = (
    "INSERT INTO everstep.workflow (id, name, queue, codec, input, error, created_at, status, finished_at, "
    "finished_epoch) VALUES ('old', 'w', 'q', 1, '{}', '{}', now(), 3, now(), 0)"
)


def parked(sql: Sql, count: int) -> None:
    """Workflows w-1, w-2, … that wait for a message of topic t, and nobody to run them."""
    sql(PARKED, {"n": count})


def mail(sql: Sql, receiver: str) -> list[object]:
    rows = sql(
        "SELECT convert_from(body, 'utf8') FROM everstep.message WHERE workflow_id = %s ORDER BY n",
        [receiver],
    )
    return [json.loads(text) for (text,) in rows]


def asleep(sql: Sql) -> int:
    return int(sql.one("SELECT count(*) FROM everstep.run WHERE state = 3"))


def batches_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each statement of this client carries."""
    send, sizes = client._messages.send, []

    async def counted(connection, letters):
        sizes.append(len(letters))
        return await send(connection, letters)

    monkeypatch.setattr(client._messages, "send", counted)
    return sizes


async def test_messages_come_in_the_order_of_the_calls(client, sql, monkeypatch, rng):
    parked(sql, 7)
    sizes = batches_of(client, monkeypatch)
    to = [f"w-{rng.randint(1, 7)}" for _ in range(MAX_ROWS * 3)]
    topics = [rng.choice("tuv") for _ in to]
    sends = [client.send(w, n, t) for n, (w, t) in enumerate(zip(to, topics, strict=True))]
    assert await asyncio.gather(*sends) == [True] * len(to)
    assert sizes == [MAX_ROWS] * 3
    for w in set(to):
        assert mail(sql, w) == [n for n, receiver in enumerate(to) if receiver == w]
    assert asleep(sql) == 0


async def test_keys_in_any_order_keep_the_order_of_the_calls(client, sql, rng):
    parked(sql, 1)
    keys = rng.sample([*(f"k-{n}" for n in range(60)), *[None] * 20], 80)
    await asyncio.gather(*[client.send("w-1", n, "t", key=key) for n, key in enumerate(keys)])
    assert mail(sql, "w-1") == list(range(80))


async def test_one_key_in_one_batch_is_one_message_the_first(client, sql, monkeypatch):
    parked(sql, 2)
    sizes = batches_of(client, monkeypatch)
    sends = [client.send(w, n, "t", key="") for n in range(5) for w in ("w-2", "w-1")]
    assert await asyncio.gather(*sends) == [True] * 10
    assert sizes == [10]
    assert await client.send("w-1", "late", "t", key="")
    assert (mail(sql, "w-1"), mail(sql, "w-2")) == ([0], [0])


async def test_without_a_key_the_same_message_is_another_one(client, sql):
    parked(sql, 1)
    await asyncio.gather(*[client.send("w-1", "again", "t") for _ in range(3)])
    assert mail(sql, "w-1") == ["again"] * 3


async def test_each_of_a_batch_hears_of_its_own_receiver(client, sql, monkeypatch):
    parked(sql, 2)
    sql(FINISHED)
    sizes = batches_of(client, monkeypatch)
    to = ["w-1", "old", "nobody", "w-2", "nobody", "old"]
    said = await asyncio.gather(*[client.send(w, 1, "t") for w in to], return_exceptions=True)
    assert sizes == [6]
    assert [s for s in said if isinstance(s, bool)] == [True, False, True, False]
    for error in (said[2], said[4]):
        assert isinstance(error, UnknownWorkflowError)
        assert "'nobody'" in str(error)
    assert sql.one("SELECT count(*) FROM everstep.message") == 2
    assert asleep(sql) == 0


async def test_what_the_database_refuses_fails_alone(client, sql, rng):
    parked(sql, 3)
    # Longer than a row of an index may be, and random, so that it cannot be compressed.
    too_long = "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(4000))
    keys = [None] * 40
    keys[7] = keys[31] = too_long
    sends = [client.send(f"w-{n % 3 + 1}", n, "t", key=key) for n, key in enumerate(keys)]
    said = await asyncio.gather(*sends, return_exceptions=True)
    assert [n for n, each in enumerate(said) if each is not True] == [7, 31]
    assert all(isinstance(said[n], PayloadError) and "refuses" in str(said[n]) for n in (7, 31))
    for w in range(3):
        assert mail(sql, f"w-{w + 1}") == [n for n in range(w, 40, 3) if n not in (7, 31)]
    assert asleep(sql) == 0


WRONG = {
    "a NUL in the topic": ("w-1", "a\0b", None),
    "half a character in the topic": ("w-1", "\ud800", None),
    "a NUL in the key": ("w-1", "t", "a\0b"),
    "half a character in the key": ("w-1", "t", "\ud800"),
    "a key that is no text": ("w-1", "t", 7),
    "a NUL in the receiver": ("w\0", "t", None),
    "half a character in the receiver": ("w\ud800", "t", None),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_no_column_takes_is_refused_before_it_meets_others(wrong, client, sql):
    parked(sql, 1)
    to, topic, key = WRONG[wrong]
    sends = [client.send("w-1", 1, "t"), client.send(to, 2, topic, key=key)]
    said = await asyncio.gather(*sends, client.send("w-1", 3, "t"), return_exceptions=True)
    assert (said[0], said[2]) == (True, True)
    assert isinstance(said[1], UsageError)
    assert mail(sql, "w-1") == [1, 3]


class Picky(Sealed):
    """Does not take one body."""

    def encode(self, body: bytes, place: PayloadPlace) -> bytes:
        if body == b"13":
            raise ValueError("unlucky")
        return super().encode(body, place)


async def test_a_codec_binds_each_of_a_batch_to_its_place_and_refuses_its_own(database, sql):
    parked(sql, 3)
    codec = Picky()
    async with Client.connect(database, codec=codec) as client:
        sends = [client.send(f"w-{n % 3 + 1}", n, f"t{n % 2}") for n in range(30)]
        said = await asyncio.gather(*sends, return_exceptions=True)
    assert [n for n, each in enumerate(said) if each is not True] == [13]
    assert isinstance(said[13], PayloadError)
    rows = sql("SELECT workflow_id, topic, codec, body FROM everstep.message ORDER BY n")
    assert {row.codec for row in rows} == {codec.id}
    opened = [
        int(codec.decode(bytes(row.body)[2:], PayloadPlace(row.workflow_id, "message", row.topic)))
        for row in rows
    ]
    assert sorted(opened) == [n for n in range(30) if n != 13]


# A first send has both statements prepared: from then on requests hold parameters only, the send's its topics.
REQUESTS = {
    "send": lambda request: b"w-2" in request and b"urgent" in request,
    "wake": lambda request: b"w-2" in request and b"urgent" not in request,
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_lost_reply_neither_loses_nor_doubles(kind, database, postgres: Server, sql):
    """Without keys as well: the repeated statement meets itself."""
    parked(sql, 3)
    with proxy_to(postgres.port) as proxy:
        url = postgres.tcp_url(urlsplit(database).path.strip("/"), proxy.port)
        async with Client.connect(url) as client:
            assert await client.send("w-1", 0, "t")
            proxy.lose = REQUESTS[kind]
            keys = [f"{n:04}" if n % 4 == 0 else None for n in range(1, 100)]
            sends = [
                client.send(f"w-{n % 3 + 1}", n, "urgent", key=k) for n, k in enumerate(keys, 1)
            ]
            assert all(await asyncio.gather(*sends))
            assert len(proxy.lost) == 1
    for w in range(3):
        assert mail(sql, f"w-{w + 1}") == list(range(w, 100, 3))
    assert asleep(sql) == 0


async def test_two_that_send_the_same_keys_do_not_deadlock(database, client, sql):
    """The other one has put down `a` and goes on with `b`, as a statement with both does."""
    parked(sql, 1)
    async with await connect(database, "other") as other:
        messages = client._messages
        async with other.transaction():
            await messages.send(other, [messages.letter("w-1", "t", b"1", "a")])
            sends = asyncio.gather(*[client.send("w-1", 2, "t", key=key) for key in "ba"])
            blocked = (
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
            )
            await eventually(lambda: sql.one(blocked, [other.info.backend_pid]))
            await messages.send(other, [messages.letter("w-1", "t", b"1", "b")])
        assert await sends == [True, True]
    assert sorted(mail(sql, "w-1")) == [1, 2]


async def test_a_receiver_that_somebody_holds_locked_holds_up_nobody_else(database, client, sql):
    parked(sql, 3)
    async with await psycopg.AsyncConnection.connect(database) as lock:
        await lock.execute("SELECT FROM everstep.run WHERE id = 'w-2' FOR UPDATE")
        held = asyncio.create_task(client.send("w-2", 1, "t"))
        async with asyncio.timeout(30):
            assert await asyncio.gather(client.send("w-1", 1, "t"), client.send("w-3", 1, "t"))
            assert await client.send("w-1", 2, "t")
        assert mail(sql, "w-2") == [1]
        assert not held.done()
        await lock.rollback()
    async with asyncio.timeout(30):
        assert await held
    assert asleep(sql) == 0


async def test_whoever_waits_for_a_locked_receiver_hears_that_the_client_is_closed(
    database, sql, monkeypatch
):
    monkeypatch.setattr("everstep.client.sender.LATER_SECONDS", (60, 60))
    parked(sql, 2)
    async with await psycopg.AsyncConnection.connect(database) as lock:
        await lock.execute("SELECT FROM everstep.run WHERE id = 'w-2' FOR UPDATE")
        async with Client.connect(database) as client:
            held = asyncio.create_task(client.send("w-2", 1, "t"))
            assert await client.send("w-1", 1, "t")
        with pytest.raises(UsageError, match="closed"):
            await asyncio.wait_for(held, 30)


async def test_what_is_cancelled_before_its_batch_goes_is_not_sent(client, sql):
    parked(sql, 1)
    regretted = asyncio.create_task(client.send("w-1", "no", "t"))
    await asyncio.sleep(0)
    regretted.cancel()
    assert await client.send("w-1", "yes", "t")
    assert regretted.cancelled()
    assert mail(sql, "w-1") == ["yes"]


def test_threads_share_the_batches_of_a_plain_client(database, sql):
    parked(sql, 4)
    with sync.Client.connect(database) as client, ThreadPoolExecutor(8) as threads:

        def speak(me: int) -> list[bool]:
            return [client.send(f"w-{n % 4 + 1}", [me, n], "t") for n in range(40)]

        assert all(all(said) for said in threads.map(speak, range(8)))
    for w in range(4):
        got = mail(sql, f"w-{w + 1}")
        for me in range(8):
            assert [n for who, n in got if who == me] == list(range(w, 40, 4))
    assert asleep(sql) == 0
