"""All errors everstep raises: the user's mistakes, outcomes of workflows and steps, faults, control signals.

One tree under `EverstepError`; facts are attributes, the message says what to do next. Control signals
derive from `BaseException`, so that `except Exception` in a workflow cannot swallow them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import traceback
from dataclasses import dataclass
from typing import Any

import msgspec

_NOT_THE_USERS = tuple(
    os.path.dirname(file) + os.sep  # noqa: PTH120
    for file in (__file__, asyncio.__file__, concurrent.futures.__file__)
)


class EverstepError(Exception):
    """Root of every error that everstep raises on purpose."""


# -- the user's mistakes -------------------------------------------------------------------------


class UsageError(EverstepError):
    """A call, a definition or an option is wrong; the message says how to put it right."""


class PayloadError(UsageError):
    """A value cannot be recorded: it is not serialisable as its annotation says, or too large."""


class CodecError(PayloadError):
    """A payload cannot be decoded here, because of the codec: none, another one, another key. `codec`: that it needs."""

    def __init__(self, message: str, codec: int) -> None:
        super().__init__(message)
        self.codec = codec


class WorkflowConflictError(UsageError):
    """The id belongs to a workflow that was started with another name or input."""

    def __init__(self, workflow_id: str, difference: str) -> None:
        super().__init__(
            f"workflow {workflow_id!r} exists already and {difference}. An id stands for one workflow with "
            f"one input: use another id, or start it with the same name and input to get the same workflow."
        )
        self.workflow_id = workflow_id


class DuplicateWorkflowError(UsageError):
    """An open workflow on this queue has the same deduplication key. `holder` is its id."""

    def __init__(self, key: str, holder: str) -> None:
        super().__init__(
            f"deduplication key {key!r} is held by workflow {holder!r} until that finishes; "
            f"on_duplicate='return' gives its handle instead"
        )
        self.key = key
        self.holder = holder


class WorkflowExistsError(UsageError):
    """A workflow with this id exists already, and the start asked for a new one."""


class UnknownWorkflowError(UsageError):
    """No workflow with this id, or no workflow function of this name."""


class NonDeterminismError(EverstepError):
    """Replay met another step than the one recorded: the code changed under a running workflow."""

    def __init__(self, workflow_id: str, position: str, expected: str, found: str) -> None:
        remedy = "run it on the version it began on, or give the new code a version of its own (EVERSTEP_VERSION)."
        if expected.startswith("value patch "):
            patch = expected.removeprefix("value patch ")
            remedy = (
                f'put everstep.deprecate_patch("{patch}") where everstep.patched("{patch}") was, until every '
                f"workflow that asked has finished; or {remedy}"
            )
        super().__init__(
            f"workflow {workflow_id!r}, step {position}: the log says {expected}, the code calls {found}. "
            f"The code changed while the workflow was under way: {remedy}"
        )
        self.workflow_id = workflow_id
        self.position = position
        self.expected = expected
        self.found = found


# -- outcomes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A recorded error: what is left of an exception after it has been through the database."""

    type: str
    message: str
    traceback: str = ""
    cause: Failure | None = None

    @classmethod
    def of(cls, error: BaseException, causes: int = 5) -> Failure:
        """What is recorded of an error and of at most so many `causes`: a chain may be long, or a circle."""
        if isinstance(error, RecordedError):
            return error.failure
        cause = error.__cause__ if causes else None
        return cls(
            type=_qualified_name(type(error)),
            message=_clip(_text_of(error), 8_192),
            traceback=_clip(_traceback_of(error), 32_768),
            cause=None if cause is None else cls.of(cause, causes - 1),
        )

    @property
    def tracebacks(self) -> str:
        """Its traceback below those of its causes, as Python prints them."""
        if self.cause is None:
            return self.traceback
        return f"{self.cause.tracebacks}{_CAUSED}{self.traceback}"

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def decode(body: bytes) -> Failure:
        return _failure_decoder.decode(body)


_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"

DEADLINE_EXCEEDED = Failure(
    "everstep.DeadlineExceeded", "the workflow was cancelled: its deadline had passed"
)

_failure_decoder = msgspec.json.Decoder(Failure)


class RecordedError(EverstepError):
    """An error raised from its record: `failure` holds type, message and traceback text of the original."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure
        if failure.cause is not None:
            self.__cause__ = RecordedError(
                f"{failure.cause.type}: {failure.cause.message}", failure.cause
            )


class StepError(RecordedError):
    """A step failed for good; raised in the workflow, on the first run and on every replay alike."""

    def __init__(self, step: str, attempts: int, failure: Failure) -> None:
        tries = "" if attempts == 1 else f" after {attempts} attempts"
        super().__init__(f"step {step} failed{tries}: {failure.type}: {failure.message}", failure)
        self.step = step
        self.attempts = attempts


INTERRUPTED = "everstep.StepInterrupted"


class StepInterruptedError(StepError):
    """An at-most-once step began and its outcome was lost with its worker: it may have happened, or not."""


class WorkflowError(RecordedError):
    """Raised by `handle.result()` when the workflow failed."""

    def __init__(self, workflow_id: str, name: str, failure: Failure) -> None:
        super().__init__(
            f"{workflow_called(workflow_id, name)} failed: {failure.type}: {failure.message}",
            failure,
        )
        self.workflow_id = workflow_id


class WorkflowCancelledError(EverstepError):
    """Raised by `handle.result()` when the workflow was cancelled. `workflow_id`: which one, where that is known."""

    workflow_id = ""


class WorkflowTimeoutError(WorkflowCancelledError, TimeoutError):
    """Raised by `handle.result()` when the workflow was cancelled because its deadline had passed."""


class WorkflowDeadError(RecordedError):
    """Raised by `handle.result()` when the workflow crashed its workers too often (dead letter)."""

    def __init__(self, workflow_id: str, name: str, failure: Failure) -> None:
        super().__init__(
            f"{workflow_called(workflow_id, name)} was given up: {failure.message}", failure
        )
        self.workflow_id = workflow_id


# -- faults --------------------------------------------------------------------------------------


class DatabaseUnreachableError(EverstepError):
    """The database does not answer, or refuses the login."""


class DatabaseRefusedError(EverstepError):
    """The database answered with an error that repeating the call will not mend."""

    def __init__(self, message: str, sqlstate: str | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class SchemaError(EverstepError):
    """The engine's schema is missing, too old or too new for this code."""


class MigrationError(EverstepError):
    """A migration cannot go on. `report` is the JSON object of docs/reference/contract.md."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(report["message"])
        self.report = report


# -- control signals -----------------------------------------------------------------------------


class ControlSignal(BaseException):
    """Unwinds a workflow's coroutine; never an error of the workflow, never to be caught by it."""


class Fenced(ControlSignal):
    """The worker no longer owns the workflow: whatever it does now is dropped."""


class Parked(ControlSignal):
    """The workflow has left the worker and will be claimed again when it wakes."""


class Cancelled(ControlSignal):
    """The workflow was cancelled."""


class Continued(ControlSignal):
    """The workflow goes on as its next generation, with this input."""

    def __init__(self, input: bytes) -> None:
        super().__init__("the workflow continues anew")
        self.input = input


def workflow_called(workflow_id: str, name: str) -> str:
    """How a message calls a workflow; a parent knows the id of its child, and not always the name."""
    return f"workflow {workflow_id!r} ({name})" if name else f"workflow {workflow_id!r}"


def _traceback_of(error: BaseException) -> str:
    """From the user's first frame on: how the engine came to call it explains nothing."""
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        first = first.tb_next
    lines = traceback.TracebackException(type(error), error, first or error.__traceback__)
    return "".join(lines.format(chain=False))


def _qualified_name(cls: type) -> str:
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001
        # Of the user's own making; what it stands for must be recorded all the same.
        return f"(its __str__ raised {type(fault).__qualname__})"


def _clip(text: str, limit: int) -> str:
    """Bound a text and make it storable: lone surrogates and NUL have no place in UTF-8 columns."""
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\\0")
    return clean if len(clean) <= limit else f"{clean[:limit]}… ({len(clean)} characters)"
