"""Run inside a worker pod: start orders `<prefix>-1 … <prefix>-count`, and return when all exist."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from decimal import Decimal

from orders.app import checkout
from orders.model import Line, Order

from everstep import Client


async def main(prefix: str, count: int) -> None:
    async with Client.connect(os.environ["EVERSTEP_DATABASE_URL"]) as client:
        await asyncio.gather(
            *(
                client.start(checkout, order(number), id=f"{prefix}-{number}")
                for number in range(1, count + 1)
            )
        )


def order(number: int) -> Order:
    return Order(
        number=number,
        customer=f"customer{number}@example.com",
        country="FR",
        currency="EUR",
        card=f"tok_{number:012x}",
        placed_at=datetime(2026, 8, 1, tzinfo=UTC),
        lines=[Line(sku="TEA-SENCHA-100", quantity=1 + number % 3, unit_price=Decimal("11.50"))],
    )


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
