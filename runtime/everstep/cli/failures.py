"""Errors as a person sees them: what, what to do, and an exit code. A traceback only for everstep's own faults."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from enum import IntEnum

import click

from everstep.errors import (
    DatabaseRefusedError,
    DatabaseUnreachableError,
    MigrationError,
    RecordedError,
    SchemaError,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
)


class ExitCode(IntEnum):
    """docs/reference/contract.md pins these."""

    SUCCESS = 0
    FAULT = 1
    WRONG_CALL = 2
    NO_DATABASE = 3
    SCHEMA = 4
    MIGRATION = 5
    FINDINGS = 6
    NOT_SUCCEEDED = 7


class ImportFailedError(UsageError):
    """The user's module does not import. `frames` are the last frames of its own traceback."""

    def __init__(self, message: str, frames: str) -> None:
        super().__init__(message)
        self.frames = frames


_SENTENCE = re.compile(r"(?<=[.?!…)])\s+(?=[A-Z`])")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RAW_BYTE = re.compile("[\udc80-\udcff]")  # as Python keeps bytes of arguments that are no text
_PASSWORD = re.compile(
    # In a URI (not the word "password" of an example), and as a keyword of a connection string.
    r"(?<=://)([^:/@\s]*):(?!password@)\S*@|(\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)",
    re.IGNORECASE,
)


def report(error: BaseException, called: str = "everstep") -> int:
    """Tell standard error about an error of the command `called`. Returns the exit code."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            sys.stderr.write(f"{error.format_message()}\n")
            return ExitCode.WRONG_CALL
        case click.ClickException():
            context = error.ctx if isinstance(error, click.UsageError) else None
            _say(printable(error.format_message()), _see_help(context))
            return ExitCode.WRONG_CALL
        case click.Abort() | KeyboardInterrupt():
            return 130
        case BrokenPipeError():
            # Whoever read the output has seen enough.
            _write_no_more()
            return ExitCode.SUCCESS
        case UnicodeEncodeError() if _RAW_BYTE.search(error.object):
            error = UsageError(
                f"{error.object!r} is not UTF-8. Write it as UTF-8: nothing else is stored."
            )
    return _report_own(error, called)


def _write_no_more() -> None:
    """Nothing may be written at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _report_own(error: BaseException, called: str) -> int:
    code = exit_code(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        _write_no_more()
        _say(f"cannot write: {error.strerror}", "Make room where the output goes.")
        return code
    if code is ExitCode.FAULT:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
        _say(
            f"an error in everstep itself: {type(error).__name__}: {printable(str(error))}",
            "Please report it with the traceback above.",
        )
        return code
    if isinstance(error, ImportFailedError):
        sys.stderr.write(printable(error.frames))
    what, remedy = what_and_remedy(error)
    if not remedy and isinstance(error, UsageError):
        remedy = f"See `{called} --help`."
    _say(what, remedy)
    return code


def exit_code(error: BaseException) -> ExitCode:
    """The code that says what kind of error it is."""
    match error:
        case UsageError():
            return ExitCode.WRONG_CALL
        case DatabaseUnreachableError() | DatabaseRefusedError():
            return ExitCode.NO_DATABASE
        case SchemaError():
            return ExitCode.SCHEMA
        case MigrationError():
            return {"SchemaTooNew": ExitCode.SCHEMA, "BadFiles": ExitCode.WRONG_CALL}.get(
                error.report["code"], ExitCode.MIGRATION
            )
        case RecordedError() | WorkflowCancelledError() | TimeoutError():
            return ExitCode.NOT_SUCCEEDED
        case _:
            return ExitCode.FAULT


def what_and_remedy(error: BaseException) -> tuple[str, str]:
    """An error's message in two lines: errors end with a sentence that says what to do."""
    text = printable(str(error))
    if isinstance(error, MigrationError):
        return _located(error.report), error.report.get("remedy", "")
    if isinstance(error, (RecordedError, WorkflowCancelledError)):
        id_ = getattr(error, "workflow_id", "") or "ID"
        return text, f"`everstep workflow steps {id_}` shows how far it came."
    what, remedy = _split(text)
    if isinstance(error, UnknownWorkflowError) and not remedy:
        remedy = "Check the spelling; `everstep workflow list` shows what there is."
    return what, remedy


def _located(found: dict[str, object]) -> str:
    """A migration's report in one line: file, statement and SQLSTATE where they are known."""
    message = str(found["message"])
    if "statement" not in found or str(found.get("file")) in message:
        return message
    return (
        f"{found['file']}, statement {found['statement']}: {message} (SQLSTATE {found['sqlstate']})"
    )


def _split(text: str) -> tuple[str, str]:
    sentences = _SENTENCE.split(text)
    if len(sentences) == 1:
        return text, ""
    return text[: -len(sentences[-1])].rstrip(), sentences[-1]


def printable(text: str) -> str:
    """Text without passwords, whoever put them into it."""
    return _PASSWORD.sub(lambda m: f"{m[1]}:***@" if m[2] is None else f"{m[2]}***", text)


def _see_help(context: click.Context | None) -> str:
    return "" if context is None else f"See `{context.command_path} --help`."


def _say(what: str, remedy: str) -> None:
    sys.stderr.write(f"error: {_one_line(what)}\n")
    if remedy:
        sys.stderr.write(f"  {_one_line(remedy)}\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())
