"""Payloads as people are shown them: with the codec at hand, or with the word that there is none.

Questions of clients bring along what a codec has made (columns `encoded_…`); all else is JSON, which the views
show by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from everstep.encoding import Encoding, PayloadPlace, codec_of, event_of
from everstep.errors import Failure, PayloadError
from everstep.store.infos import Encoded, EventInfo, StepInfo, WorkflowInfo
from everstep.store.models import Checkpoint, CheckpointKind


def workflow_shown(info: WorkflowInfo, row: Any, encoding: Encoding) -> WorkflowInfo:
    """A workflow with what its row holds encoded."""
    if row.encoded_input is not None:
        found = _value(encoding, row.encoded_input, lambda b: encoding.input(b, info.id, info.name))
        info = replace(info, input=found)
    if row.encoded_output is not None:
        place = PayloadPlace(info.id, "result")
        found = _value(encoding, row.encoded_output, lambda b: encoding.decode(b, place))
        info = replace(info, output=found)
    if row.plain_error is not None:
        return _causes_shown(info, row.plain_error)
    return error_shown(info, row.encoded_error, encoding)


def _causes_shown(info: WorkflowInfo, error: bytes) -> WorkflowInfo:
    try:
        failure = Failure.decode(error)
    except msgspec.MsgspecError:
        return info  # the view has shown what there is
    return replace(info, error_traceback=failure.tracebacks or None)


def error_shown(info: WorkflowInfo, encoded: bytes | None, encoding: Encoding) -> WorkflowInfo:
    """A workflow with its error, if that is encoded."""
    if encoded is None:
        return info
    place = PayloadPlace(info.id, "error")
    failure = _failure(encoding, encoded, lambda b: encoding.decode(b, place))
    return replace(
        info,
        error_type=failure.type or None,
        error_message=failure.message,
        error_traceback=failure.tracebacks or None,
    )


def step_shown(info: StepInfo, row: Any, encoding: Encoding) -> StepInfo:
    """A step with its output or error, if that is encoded."""
    if row.encoded is None:
        return info
    failed = info.status == "failed"
    stored = Checkpoint(
        info.branch,
        info.seq,
        row.kind_number,
        info.name,
        info.attempts,
        codec_of(row.encoded),
        output=None if failed else row.encoded,
        error=row.encoded if failed else None,
    )

    def opened(_: bytes) -> bytes:
        if stored.kind == CheckpointKind.SEND:
            raise PayloadError(
                "a message is bound to its receiver, of which its sender's log knows nothing"
            )
        found = encoding.opened(info.workflow_id, stored)
        return (found.error if failed else found.output) or b"null"

    if not failed:
        return replace(info, output=_value(encoding, row.encoded, opened))
    failure = _failure(encoding, row.encoded, opened)
    return replace(info, error_type=failure.type or None, error_message=failure.message)


def event_shown(
    workflow_id: str, key: str, body: bytes, set_at: datetime, encoding: Encoding
) -> EventInfo:
    """What a workflow publishes under a name."""
    place = event_of(workflow_id, key)
    return EventInfo(key, _value(encoding, body, lambda b: encoding.decode(b, place)), set_at)


def _value(encoding: Encoding, body: bytes, decode: Callable[[bytes], bytes]) -> Any:
    try:
        return msgspec.json.decode(decode(body))
    except PayloadError as error:
        return _encoded(encoding, body, error)


def _failure(encoding: Encoding, body: bytes, decode: Callable[[bytes], bytes]) -> Failure:
    try:
        return Failure.decode(decode(body))
    except PayloadError as error:
        return Failure("", str(_encoded(encoding, body, error)))


def _encoded(encoding: Encoding, body: bytes, error: PayloadError) -> Encoded:
    used = codec_of(body)
    # Without the right codec there is nothing more to say; where it is there, its refusal is.
    return Encoded(used, str(error) if used == encoding.id else None)
