"""Logging of a worker process: one line per event on standard error, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """Time in UTC, level, message in one line. Below it a traceback, where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{_time(record)} {record.levelname.lower():<7} {' '.join(record.getMessage().split())}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    """One JSON object per event; what is passed as `extra` becomes keys."""

    def __init__(self, facts: dict[str, str]) -> None:
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._facts,
            **{key: value for key, value in vars(record).items() if key not in _USUAL},
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def set_up(style: str, level: str, facts: dict[str, str]) -> None:
    """Send every log of the process to standard error. `facts` go with each JSON event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(facts) if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
