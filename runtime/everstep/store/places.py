"""What a transactional step is: where its outcome is recorded, under which rules, and in which book."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from psycopg import pq

from everstep.codec import Payload
from everstep.encoding import PLAIN, Encoding, PayloadPlace, position_of
from everstep.errors import UsageError
from everstep.store.models import CheckpointKind
from everstep.store.sessions import AsyncTx, Form, Tx
from everstep.store.statements import statements

_IDLE = "10s"
"""A worker that freezes in a transaction keeps its locks no longer than this."""


class Isolation(StrEnum):
    """Isolation levels of Postgres."""

    READ_COMMITTED = "READ COMMITTED"
    REPEATABLE_READ = "REPEATABLE READ"
    SERIALIZABLE = "SERIALIZABLE"


@dataclass(slots=True)
class Mark:
    """The key of a transaction's record on another database. `seen`: it is from an earlier run of the workflow."""

    key: UUID | None = None
    seen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a transaction's outcome is recorded, how it is encoded, and what its function asks for.

    `database`: empty for the engine's. `check`: raises what forbids this worker to commit.
    """

    workflow_id: str
    epoch: int
    branch: str
    seq: int
    name: str
    attempt: int
    payload: Payload[Any]
    max_payload: int
    isolation: Isolation
    check: Callable[[], None]
    form: Form = None
    database: str = ""
    encoding: Encoding = PLAIN
    mark: Mark = field(default_factory=Mark)

    def stored(self, body: bytes) -> bytes:
        """What is stored of an outcome's JSON."""
        return self.encoding.encode(body, self._payload_place())

    def value(self, stored: bytes) -> Any:
        """The outcome that is stored. Raises PayloadError."""
        return self.payload.decode(self.encoding.decode(stored, self._payload_place()))

    def _payload_place(self) -> PayloadPlace:
        kind = CheckpointKind.TRANSACTION
        return position_of(self.workflow_id, kind, self.branch, self.seq)


class Book(Protocol):
    """Where the outcomes of one database's transactions are recorded."""

    fence: bytes | None
    record: bytes
    recorded: bytes

    async def open(self, tx: AsyncTx) -> None:
        """Make sure that it is there."""

    def open_plain(self, tx: Tx) -> None: ...
    def arguments(self, place: Place) -> dict[str, object]: ...


class Checkpoints:
    """The book of the engine's own database: the checkpoints, behind the fence."""

    def __init__(self, schema: str, me: UUID) -> None:
        sql = statements(schema)
        self.fence: bytes | None = sql["fence"]
        self.record = sql["record_transaction"]
        self.recorded = sql["recorded_transaction"]
        self._me = me

    async def open(self, tx: AsyncTx) -> None:
        """It came with the engine's tables."""

    def open_plain(self, tx: Tx) -> None: ...

    def arguments(self, place: Place) -> dict[str, object]:
        return {"epoch": place.epoch, "me": self._me, "attempt": place.attempt}


def begin(place: Place) -> bytes:
    """The first statement of a transaction."""
    return (
        f"SET TRANSACTION ISOLATION LEVEL {place.isolation.value}; "
        f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE}'"
    ).encode()


def check_open(tx: AsyncTx | Tx, place: Place) -> None:
    """Raise UsageError if the function has left no transaction to commit."""
    match tx.info.transaction_status:
        case pq.TransactionStatus.INTRANS:
            return
        case pq.TransactionStatus.INERROR:
            raise UsageError(
                f"transaction {place.name}: a statement failed, and the function went on. Postgres takes nothing "
                f"more in a transaction after that: let the error through, or put what may fail into a savepoint."
            )
        case _:
            raise ended_itself(place.name)


def ended_itself(name: str) -> UsageError:
    """The error of a function that has committed or rolled back, or has tried to."""
    return UsageError(
        f"transaction {name} ended its transaction itself: everstep commits it, together with the record of "
        f"its outcome. Leave commit and rollback away; to roll back, raise an exception."
    )
