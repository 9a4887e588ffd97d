"""Small pure parts: ids, statements, suspicion, settings, recorded failures, acknowledgements."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from everstep import Settings, UsageError
from everstep.acknowledgement import Acknowledgement
from everstep.engine.sweeper import Suspicion
from everstep.errors import Failure, StepError
from everstep.ids import new_id
from everstep.store.models import CommitBatch
from everstep.store.statements import in_schema, statements
from everstep.store.workers import Lease


def test_ids_are_uuids_of_version_7_and_in_order_of_time():
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == 2_000
    for id_ in ids:
        parsed = UUID(id_)
        assert (parsed.version, parsed.variant) == (7, "specified in RFC 4122")
    moments = [int(id_[:12], 16) for id_ in ids]
    assert moments == sorted(moments)
    assert abs(moments[-1] / 1000 - time.time()) < 5


def test_every_statement_has_a_name_and_only_parameters_that_are_named():
    found = statements("everstep")
    assert {"claim", "commit", "rescue", "start", "beat", "cancel"} <= found.keys()
    for name, sql in found.items():
        text = sql.decode()
        assert not re.search(r"(?<!%)%(?![%(])", text), name
        assert "NOTIFY" not in text.upper(), f"{name}: hints never ride in an engine transaction"
        if name.startswith("doctor_"):
            continue  # the ages of other sessions are told by the server's clock
        assert not re.search(r"\b(now|clock_timestamp|random|gen_random_uuid)\(", text), name


def test_statements_are_written_for_the_schema_in_use():
    assert b"FROM shop.run r" in statements("shop")["claim"]
    assert b"everstep." not in statements("shop")["claim"]
    text = "SELECT everstep.clock() FROM everstep.run WHERE note = 'not_everstep_x'"
    assert (
        in_schema(text, "shop") == "SELECT shop.clock() FROM shop.run WHERE note = 'not_everstep_x'"
    )
    with pytest.raises(UsageError):
        statements('x"; DROP')


def test_the_checkpoints_of_a_worker_are_only_ever_inserted():
    for name, sql in statements("everstep").items():
        if name == "restart":
            continue  # a client's: it begins a failed workflow anew, and no worker has it then
        written = re.findall(rb"(?:UPDATE|DELETE FROM)\s+everstep\.checkpoint", sql)
        assert not written, name


class TestSuspicion:
    START = datetime(2026, 1, 1, tzinfo=UTC)

    def lease(self, seconds: float, *, expired: bool, worker: UUID | None = None) -> Lease:
        return Lease(worker or self.worker, self.START + timedelta(seconds=seconds), expired)

    def setup_method(self) -> None:
        self.worker = uuid4()

    def test_an_expired_lease_is_suspect_once_it_stood_still_for_long_enough(self):
        suspicion = Suspicion(patience=7.5)
        assert suspicion.suspects([self.lease(0, expired=True)], now=100.0) == []
        assert suspicion.suspects([self.lease(0, expired=True)], now=107.4) == []
        assert suspicion.suspects([self.lease(0, expired=True)], now=107.5) == [self.worker]

    def test_a_renewed_lease_begins_anew(self):
        suspicion = Suspicion(patience=7.5)
        suspicion.suspects([self.lease(0, expired=True)], now=100.0)
        assert suspicion.suspects([self.lease(5, expired=True)], now=108.0) == []
        assert suspicion.suspects([self.lease(5, expired=True)], now=115.5) == [self.worker]

    def test_a_lease_that_has_not_run_out_is_never_suspect(self):
        suspicion = Suspicion(patience=1)
        suspicion.suspects([self.lease(0, expired=False)], now=0)
        assert suspicion.suspects([self.lease(0, expired=False)], now=1e9) == []

    def test_a_jump_of_the_databases_clock_alone_condemns_nobody(self):
        suspicion = Suspicion(patience=7.5)
        fleet = [uuid4() for _ in range(5)]
        for second in range(0, 30, 5):
            leases = [self.lease(second, expired=second >= 10, worker=w) for w in fleet]
            assert suspicion.suspects(leases, now=float(second)) == []

    def test_workers_that_are_gone_are_forgotten(self):
        suspicion = Suspicion(patience=1)
        suspicion.suspects([self.lease(0, expired=True)], now=0)
        suspicion.suspects([], now=5)
        assert suspicion.suspects([self.lease(0, expired=True)], now=10) == []


class TestSettings:
    def test_the_environment_is_read_and_options_go_before_it(self):
        environ = {
            "EVERSTEP_DATABASE_URL": "postgresql://x",
            "EVERSTEP_CONCURRENCY": "7",
            "EVERSTEP_GRACE_SECONDS": "1.5",
            "EVERSTEP_VERSION": "",
        }
        settings = Settings.from_environment(environ, concurrency=9, port=None)
        assert (settings.url, settings.concurrency, settings.grace) == ("postgresql://x", 9, 1.5)
        assert (settings.version, settings.port) == ("unversioned", 9464)

    @pytest.mark.parametrize(
        ("environ", "word"),
        [
            ({}, "EVERSTEP_DATABASE_URL"),
            ({"EVERSTEP_PORT": "x"}, "EVERSTEP_PORT='x' is not a number"),
            ({"EVERSTEP_CONCURRENCY": "0"}, "concurrency"),
            ({"EVERSTEP_LEASE_SECONDS": "0"}, "lease"),
            ({"EVERSTEP_VERSION": "a b"}, "version"),
            ({"EVERSTEP_VERSION": "-a"}, "version"),
            ({"EVERSTEP_SCHEMA": "Up"}, "schema"),
            ({"EVERSTEP_SCHEMA": "a" * 42}, "schema"),
        ],
    )
    def test_what_is_wrong_is_named(self, environ, word):
        if environ:
            environ = {"EVERSTEP_DATABASE_URL": "postgresql://x", **environ}
        with pytest.raises(UsageError, match=word):
            Settings.from_environment(environ)


def test_a_failure_keeps_type_message_traceback_and_cause_through_the_database():
    try:
        raise ValueError("outer") from KeyError("inner\0\ud800")  # noqa: TRY301
    except ValueError as error:
        failure = Failure.of(error)
    again = Failure.decode(failure.encode())
    assert again == failure
    assert (again.type, again.message) == ("ValueError", "outer")
    assert "raise ValueError" in again.traceback
    assert again.cause is not None
    assert again.cause.type == "KeyError"
    error = StepError("charge", 3, again)
    assert str(error) == "step charge failed after 3 attempts: ValueError: outer"
    assert str(error.__cause__).startswith("KeyError")


def test_a_long_error_is_cut():
    failure = Failure.of(ValueError("x" * 100_000))
    assert len(failure.encode()) < 50_000
    assert "100000 characters" in failure.message


def test_a_circle_of_causes_ends():
    error = ValueError("round")
    error.__cause__ = KeyError("and round")
    error.__cause__.__cause__ = error
    failure = Failure.of(error)
    kinds = []
    while failure is not None:
        kinds.append(failure.type)
        failure = failure.cause
    assert kinds == ["ValueError", "KeyError"] * 3


def test_an_error_that_cannot_say_what_it_is_is_recorded_all_the_same():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    failure = Failure.of(Mute())
    assert failure.type.endswith("Mute")
    assert "RuntimeError" in failure.message


async def test_an_acknowledgement_wakes_all_and_is_cancelled_by_none():
    given = Acknowledgement()
    waiting = [asyncio.ensure_future(given.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    given.give(at)
    given.give(at + timedelta(days=1))
    assert await asyncio.gather(*waiting[1:]) == [at, at]
    assert await given.wait() == at
    assert waiting[0].cancelled() or waiting[0].cancelling()


def test_a_batch_knows_its_workflows():
    batch = CommitBatch()
    batch.c_id += ["a", "a", "b"]
    batch.d_id += ["b"]
    batch.p_id += ["c"]
    assert (len(batch), batch.ids()) == (5, {"a", "b", "c"})
