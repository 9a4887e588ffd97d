"""What commands that ask a database share: settings, one connection or a client, and an event loop for as long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from everstep.app import App
from everstep.client.asynchronous import Client
from everstep.migrations.known import newest_known
from everstep.settings import Settings
from everstep.store.checks import check_schema
from everstep.store.connection import Connection, Link

T = TypeVar("T")


def with_client(
    url: str | None,
    schema: str | None,
    function: Callable[[Client], Awaitable[T]],
    *,
    app: App | None = None,
) -> T:
    """Call `function` with a client of the database that options and environment name, as this App's are."""
    settings = Settings.from_environment(url=url, schema=schema)
    of_app: dict[str, Any] = (
        {} if app is None else {"max_payload": app.max_payload, "codec": app.codec}
    )

    async def call() -> T:
        async with Client.connect(settings.url, settings.schema, **of_app) as client:
            return await function(client)

    return asyncio.run(call())


def with_connection(
    url: str | None, schema: str | None, function: Callable[[Connection, str], Awaitable[T]]
) -> T:
    """Call `function` with one connection, and the schema's name, once the schema is known to fit."""
    settings = Settings.from_environment(url=url, schema=schema)
    link = Link(settings.url, "everstep cli")

    async def checked(connection: Connection) -> T:
        await check_schema(connection, settings.schema, newest_known())
        return await function(connection, settings.schema)

    async def call() -> T:
        try:
            return await link.first(checked)
        finally:
            await link.close()

    return asyncio.run(call())
