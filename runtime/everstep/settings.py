"""Settings of a worker process. The only reader of os.environ; docs/reference/contract.md lists the names."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from everstep.errors import UsageError

UNVERSIONED = "unversioned"
"""The version of code that was not given one; it becomes current by itself where nobody routes."""

DEFAULT_PORT = 9464
"""Of a worker pod: probes and metrics."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,40}\Z")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")


def checked_version(version: str) -> str:
    """The version, if a worker may have it. Raises UsageError."""
    if not _VERSION.match(version):
        raise UsageError(
            f"version {version!r}: letters, digits, dots, dashes and underscores, at most 64, "
            f"beginning and ending with a letter or digit"
        )
    return version


def checked_schema(name: str) -> str:
    """The schema's name, if it is one that needs no thought about quoting. Raises UsageError."""
    if not _SCHEMA.match(name):
        raise UsageError(
            f"schema {name!r}: use lower-case letters, digits and underscores, at most 41, "
            f"not starting with a digit"
        )
    return name


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a worker process can be told from outside. Durations in seconds.

    `app` is the name in logs and metrics; empty: that of the App object. `port` of the probes and metrics;
    0: any free one, None: none, which is the default only where the environment is not asked.
    """

    url: str
    schema: str = "everstep"
    app: str = ""
    version: str = UNVERSIONED
    pod: str = field(default_factory=socket.gethostname)
    port: int | None = None
    concurrency: int = 200
    threads: int = 32
    transactions: int = 10
    grace: float = 30.0
    lease_ttl: float = 15.0
    watchdog: float = 300.0
    max_crashes: int = 5
    listen: bool = True

    def __post_init__(self) -> None:
        checked_schema(self.schema)
        checked_version(self.version)
        if min(self.concurrency, self.threads, self.transactions) < 1:
            raise UsageError("concurrency, threads and transactions are at least 1")
        if self.lease_ttl <= 0 or self.grace < 0:
            raise UsageError("the lease is longer than 0 seconds, the grace period not negative")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
        """Settings from EVERSTEP_* variables; what is `given` (and not None) goes before them."""
        values: dict[str, object] = {"port": DEFAULT_PORT}
        for name, (variable, kind) in _VARIABLES.items():
            if environ.get(variable):
                values[name] = _parsed(variable, environ[variable], kind)
        values.update({name: value for name, value in given.items() if value is not None})
        if "url" not in values:
            raise UsageError(
                "no database: set EVERSTEP_DATABASE_URL (or --database), for example "
                "postgresql://user:password@host:5432/name"
            )
        return cls(**values)  # type: ignore[arg-type]


def database_url(variable: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The address of a database of the user's own, if the environment has one."""
    return environ.get(variable)


def termination_log(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file whose content Kubernetes shows in the pod's status, if this process runs in a pod."""
    if named := environ.get("EVERSTEP_TERMINATION_LOG"):
        return Path(named)
    usual = Path("/dev/termination-log")
    return usual if usual.is_file() and os.access(usual, os.W_OK) else None


def given_test_database(environ: Mapping[str, str] = os.environ) -> str | None:
    """The server on which everstep.testing makes its databases, if it is to be one that is there."""
    return environ.get("EVERSTEP_TEST_DATABASE_URL") or None


_VARIABLES: dict[str, tuple[str, type]] = {
    "url": ("EVERSTEP_DATABASE_URL", str),
    "schema": ("EVERSTEP_SCHEMA", str),
    "app": ("EVERSTEP_APP", str),
    "version": ("EVERSTEP_VERSION", str),
    "pod": ("EVERSTEP_POD", str),
    "port": ("EVERSTEP_PORT", int),
    "concurrency": ("EVERSTEP_CONCURRENCY", int),
    "threads": ("EVERSTEP_THREADS", int),
    "transactions": ("EVERSTEP_TRANSACTIONS", int),
    "grace": ("EVERSTEP_GRACE_SECONDS", float),
    "lease_ttl": ("EVERSTEP_LEASE_SECONDS", float),
    "watchdog": ("EVERSTEP_WATCHDOG_SECONDS", float),
    "max_crashes": ("EVERSTEP_MAX_CRASHES", int),
}


def _parsed(variable: str, text: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{variable}={text!r} is not a number") from None
