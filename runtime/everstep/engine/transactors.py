"""The databases that a worker's transactions run on: the engine's, and those the app names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from everstep.app import App
from everstep.errors import EverstepError
from everstep.settings import Settings
from everstep.store.places import Checkpoints, Place
from everstep.store.records import Records
from everstep.store.transactions import Transactor

log = logging.getLogger("everstep")


def transactors(app: App, settings: Settings, me: UUID) -> Transactors:
    """Those of one tenure. Raises UsageError for a database whose address nobody has told."""
    engine = Transactor(
        settings.url, Checkpoints(settings.schema, me), connections=settings.transactions
    )
    label = settings.app or app.name
    elsewhere = {
        name: Transactor(
            each.address(),
            Records(name, each.schema, label),
            connections=each.connections,
        )
        for name, each in app.databases.items()
    }
    return Transactors(engine, elsewhere)


class Transactors:
    """A Transactor per database, found by name; the engine's has none."""

    def __init__(self, engine: Transactor, elsewhere: Mapping[str, Transactor]) -> None:
        self._of = {"": engine, **elsewhere}

    async def run(self, place: Place, call: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._of[place.database].run(place, call)

    def run_plain(self, place: Place, call: Callable[[Any], Any]) -> Any:
        return self._of[place.database].run_plain(place, call)

    async def greet(self) -> None:
        """Say early what is wrong with the app's databases. One that is away keeps nobody from other work."""
        named = [(name, transactor) for name, transactor in self._of.items() if name]
        await asyncio.gather(*[self._greet(name, transactor) for name, transactor in named])

    async def _greet(self, name: str, transactor: Transactor) -> None:
        try:
            await transactor.greet()
        except Exception as error:  # noqa: BLE001
            told = str(error) if isinstance(error, EverstepError) else repr(error)
            told = told.rstrip(".")  # an error ends as a sentence, or with SQL to run
            log.warning("database %s: %s. Transactions on it are tried when they run", name, told)

    async def close(self) -> None:
        await asyncio.gather(*[transactor.close() for transactor in self._of.values()])
