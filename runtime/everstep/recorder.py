"""What a running workflow is given by its worker, or by a test in the worker's place: protocols only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from everstep.acknowledgement import Acknowledgement
from everstep.store.models import Checkpoint, Ending, Seen, Start

if TYPE_CHECKING:
    from everstep.context import AttemptCall, Execution


class Recorder(Protocol):
    """Takes checkpoints and parks into the next group commit, which acknowledges them.

    `held`: whether the worker's lease still holds, by its own clock. `leaving`: the worker drains, and no new
    effect begins; `left` is set when it has gone.
    """

    @property
    def leaving(self) -> bool: ...
    @property
    def left(self) -> asyncio.Event: ...
    def checkpoint(
        self, execution: Execution, row: Checkpoint, child: Start | None = None
    ) -> Acknowledgement: ...
    def park(
        self, execution: Execution, wake_at: datetime | None, key: str, signals: int | None
    ) -> Acknowledgement: ...
    def finish(
        self, execution: Execution, ending: Ending, output: bytes | None, error: bytes | None
    ) -> Acknowledged: ...
    def held(self) -> bool: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def eyes(self) -> Eyes: ...
    @property
    def transactor(self) -> Transactor: ...


class Acknowledged(Protocol):
    """What has been handed to a recorder, and when it is durable."""

    async def wait(self) -> datetime: ...


class Probe(Recorder, Protocol):
    """What a test puts between one workflow and its worker, in the recorder's place (everstep.testing)."""

    def around(self, call: AttemptCall) -> AttemptCall: ...
    def around_plain(self, call: AttemptCall) -> AttemptCall: ...
    def pause(self, seconds: float) -> float: ...


class Eyes(Protocol):
    """Looks at what others did, in the database."""

    async def exists(self, execution: Execution, target: str) -> Seen: ...
    async def message(self, execution: Execution, topic: str) -> Seen: ...
    async def outcome(self, execution: Execution, target: str) -> Seen: ...
    async def event(self, execution: Execution, target: str, key: str) -> Seen: ...


class Transactor(Protocol):
    """Runs transactional steps."""

    async def run(self, place: Any, call: Callable[[Any], Any]) -> Any: ...
    def run_plain(self, place: Any, call: Callable[[Any], Any]) -> Any: ...


class Clock(Protocol):
    """The database's time."""

    def until(self, when: datetime) -> float: ...
