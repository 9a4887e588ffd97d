"""Settings of the operator process; the only reader of its environment."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_PREFIX = "EVERSTEP_OPERATOR_"


class SettingsError(ValueError):
    """A variable of the environment that makes no sense."""


@dataclass(frozen=True, slots=True)
class Settings:
    namespaces: tuple[str, ...] = ()
    """Watched namespaces; empty: the whole cluster."""
    namespace: str = "default"
    """Where the operator itself runs: its Lease lives there."""
    identity: str = "everstep-operator"
    port: int = 8080
    leader_election: bool = True
    parallel: int = 8
    """Objects handled at the same time."""
    resync_seconds: float = 60.0
    log_level: str = "INFO"
    log_format: str = "json"


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    def text(name: str, default: str) -> str:
        return environment.get(_PREFIX + name, "").strip() or default

    def number(name: str, default: float) -> float:
        try:
            return float(text(name, str(default)))
        except ValueError as error:
            raise SettingsError(f"{_PREFIX}{name} must be a number") from error

    watched = text("WATCH_NAMESPACES", "")
    return Settings(
        namespaces=tuple(part.strip() for part in watched.split(",") if part.strip()),
        namespace=text("NAMESPACE", "default"),
        identity=text("IDENTITY", socket.gethostname()),
        port=int(number("PORT", 8080)),
        leader_election=text("LEADER_ELECTION", "true").lower() != "false",
        parallel=int(number("PARALLEL", 8)),
        resync_seconds=number("RESYNC_SECONDS", 60.0),
        log_level=text("LOG_LEVEL", "INFO").upper(),
        log_format=text("LOG_FORMAT", "json").lower(),
    )
