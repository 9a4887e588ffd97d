"""Pod-local metrics: counted in the process, no SQL."""

from __future__ import annotations


class LocalMetrics:
    """Filled in by the catalogue."""

    def __init__(self, app: str, version: str) -> None:
        self.app, self.version = app, version

    def claimed(self, workflows: int, seconds: float) -> None: ...

    def committed(self, rows: int, seconds: float) -> None: ...
