"""The codec hook: what a user's codec makes of payloads between JSON and the table, such as ciphertext.

A body that a codec has made begins with a NUL byte, which no JSON does, and the codec's id; so each body says
what it is, also where several are in one row, and what was written before there was a codec stays readable.
Without a codec nothing here costs more than looking at that byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import structs

from everstep.codec import JSON
from everstep.errors import CodecError, PayloadError, UsageError
from everstep.store.models import Checkpoint, CheckpointKind, Outcome, Start

FIRST_ID, LAST_ID = 100, 255
"""Ids for codecs of users; those below are everstep's own."""

_MARK = b"\0"
_LOOSE = b"\1"
"""Begins an input whose workflow was not known: that of a start with debounce."""


@dataclass(frozen=True, slots=True)
class PayloadPlace:
    """Which payload of which workflow a body is: a codec can bind one to the other.

    `kind`: input, result, error, message, event, stream, or the kind of a checkpoint. `name`: a message's topic,
    an event's or stream's key. `branch` and `seq`: of checkpoints, and of what is written to a stream.
    """

    workflow_id: str
    kind: str
    name: str = ""
    branch: str = ""
    seq: int = 0

    def __bytes__(self) -> bytes:
        """All of it, unmistakably: as associated data of an encryption."""
        return msgspec.json.encode([self.workflow_id, self.kind, self.name, self.branch, self.seq])

    def __str__(self) -> str:
        where = f" {self.branch}:{self.seq}" if self.seq else ""
        name = f" {self.name!r}" if self.name else ""
        return f"{self.kind}{name}{where} of workflow {self.workflow_id!r}"


@runtime_checkable
class Codec(Protocol):
    """Turns the JSON of a payload into what is stored, and back. Called on the event loop: it should be quick.

    `id`, from 100 to 255, is stored with each body. `encode` may give something else each time it is called;
    `decode` raises an exception, whichever, for a body that is not of this place. Keys are the codec's business:
    to rotate them, let the body say which one it was made with.
    """

    @property
    def id(self) -> int: ...
    def encode(self, body: bytes, place: PayloadPlace) -> bytes: ...
    def decode(self, body: bytes, place: PayloadPlace) -> bytes: ...


class Encoding:
    """A codec at work, or none. Raises UsageError for one that is no codec."""

    def __init__(self, codec: Codec | None) -> None:
        if codec is not None:
            _check(codec)
        self.codec = codec
        self.id = JSON if codec is None else codec.id
        self._head = b"" if codec is None else _MARK + bytes([codec.id])

    def encode(self, body: bytes, place: PayloadPlace) -> bytes:
        """What is stored. Raises PayloadError if the codec cannot."""
        if self.codec is None:
            return body
        try:
            return self._head + self.codec.encode(body, place)
        except Exception as error:
            raise PayloadError(
                f"{place}: codec {self.id} cannot encode it: {_brief(error)}"
            ) from error

    def decode(self, body: bytes, place: PayloadPlace) -> bytes:
        """The JSON of what was stored. Raises CodecError if it was not stored there, or with another codec."""
        if not body.startswith(_MARK):
            return body
        used = body[1] if len(body) > 1 else 0
        if self.codec is None or used != self.id:
            here = "none is configured here" if self.codec is None else f"{self.id} is configured"
            raise CodecError(
                f"{place}: it is encoded with codec {used}, and {here}. Give the App and each Client the codec "
                f"with this id, as codec=…, and commands that App, as --app MODULE:APP",
                used,
            )
        try:
            found = self.codec.decode(body[2:], place)
            msgspec.json.decode(found, type=msgspec.Raw)  # what it was given to encode was JSON
        except Exception as error:
            raise CodecError(
                f"{place}: codec {used} does not take what is stored there: {_brief(error)}. It was made with "
                f"another key, which this codec needs, too; or it was changed or moved.",
                used,
            ) from error
        return found

    # -- rows ------------------------------------------------------------------------------------

    def row(self, workflow_id: str, row: Checkpoint) -> Checkpoint:
        """A checkpoint as it is stored."""
        if self.codec is None or row.kind in _OF_THE_ENGINE:
            return row
        place = _place_of(workflow_id, row)
        if row.error is not None:
            return structs.replace(row, codec=self.id, error=self.encode(row.error, place))
        assert row.output is not None
        return structs.replace(row, codec=self.id, output=self.encode(row.output, place))

    def opened(self, workflow_id: str, row: Checkpoint) -> Checkpoint:
        """A checkpoint as it was recorded."""
        body = row.output if row.error is None else row.error
        if body is None or not body.startswith(_MARK) or row.kind == CheckpointKind.SEND:
            return row  # what was sent is bound to its receiver, of which a log knows nothing; nobody reads it here
        found = self.decode(body, _place_of(workflow_id, row))
        if row.error is not None:
            return structs.replace(row, codec=JSON, error=found)
        return structs.replace(row, codec=JSON, output=found)

    def start(self, start: Start) -> Start:
        """A start as it is stored."""
        if self.codec is None:
            return start
        if start.debounce is None:
            body = self.encode(start.input, input_of(start.id))
        else:
            body = _LOOSE + self.encode(start.input, debounced_input_of(start.name))
        return structs.replace(start, codec=self.id, input=body)

    def input(self, body: bytes, workflow_id: str, name: str) -> bytes:
        """The JSON of a workflow's input."""
        if body.startswith(_LOOSE):
            return self.decode(body[1:], debounced_input_of(name))
        return self.decode(body, input_of(workflow_id))

    def ending(
        self, workflow_id: str, output: bytes | None, error: bytes | None
    ) -> tuple[bytes | None, bytes | None]:
        """A result and an error as they are stored."""
        if self.codec is None:
            return output, error
        return (
            output and self.encode(output, PayloadPlace(workflow_id, "result")),
            error and self.encode(error, PayloadPlace(workflow_id, "error")),
        )

    def outcome(self, outcome: Outcome) -> Outcome:
        """How a workflow finished, as it was recorded."""
        output, error = outcome.output, outcome.error
        if not (output or b"").startswith(_MARK) and not (error or b"").startswith(_MARK):
            return outcome
        return structs.replace(
            outcome,
            output=output and self.decode(output, PayloadPlace(outcome.id, "result")),
            error=error and self.decode(error, PayloadPlace(outcome.id, "error")),
        )


PLAIN = Encoding(None)


def codec_of(body: bytes) -> int:
    """The id of the codec that made what is stored; JSON for what none has made."""
    marked = body.removeprefix(_LOOSE)
    return marked[1] if marked.startswith(_MARK) and len(marked) > 1 else JSON


def input_of(workflow_id: str) -> PayloadPlace:
    return PayloadPlace(workflow_id, "input")


def debounced_input_of(name: str) -> PayloadPlace:
    """Of a workflow function: whose input it becomes is for the database to say."""
    return PayloadPlace("", "input", name)


def message_to(workflow_id: str, topic: str) -> PayloadPlace:
    """Of all messages of a topic: a sender does not know which one its own will be."""
    return PayloadPlace(workflow_id, "message", topic)


def event_of(workflow_id: str, key: str) -> PayloadPlace:
    return PayloadPlace(workflow_id, "event", key)


def written_to(workflow_id: str, key: str, branch: str, seq: int) -> PayloadPlace:
    return PayloadPlace(workflow_id, "stream", key, branch, seq)


_OF_THE_ENGINE = frozenset(
    {
        CheckpointKind.SLEEP,
        CheckpointKind.TIMER,
        CheckpointKind.CHILD,
        CheckpointKind.VALUE,
        CheckpointKind.STARTED,
    }
)
"""What these hold is the engine's own: instants, ids of children, chance, marks."""


def _place_of(workflow_id: str, row: Checkpoint) -> PayloadPlace:
    # What a checkpoint sends elsewhere is one body in two rows, so it is bound to where it goes.
    match row.kind:
        case CheckpointKind.SEND:
            return message_to(row.target or "", row.name)
        case CheckpointKind.PUBLISH:
            return event_of(workflow_id, row.name)
        case CheckpointKind.STREAM:
            return written_to(workflow_id, row.name, row.branch, row.seq)
        case _:
            return position_of(workflow_id, row.kind, row.branch, row.seq)


def position_of(workflow_id: str, kind: int, branch: str, seq: int) -> PayloadPlace:
    return PayloadPlace(workflow_id, CheckpointKind(kind).name.lower(), branch=branch, seq=seq)


def _check(codec: object) -> None:
    if not isinstance(codec, Codec):
        raise UsageError(
            f"codec= takes an object with id, encode and decode, not {type(codec).__name__}"
        )
    if not isinstance(codec.id, int) or not FIRST_ID <= codec.id <= LAST_ID:
        raise UsageError(f"a codec's id is from {FIRST_ID} to {LAST_ID}, not {codec.id!r}")


def _brief(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
