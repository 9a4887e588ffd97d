"""Writes orders.csv beside this file: the same 500 orders each time, 14 of which the shop must not take."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

ORDERS = 500
COLUMNS = (
    "number", "customer", "country", "currency", "card", "placed_at", "sku", "quantity", "unit_price",
)  # fmt: skip
RATE = {"EUR": Decimal(1), "GBP": Decimal("0.86"), "SEK": Decimal("11.2")}
COUNTRIES = {"DE": "EUR", "FR": "EUR", "IE": "EUR", "NL": "EUR", "GB": "GBP", "SE": "SEK"}
PRICES = {
    "TEA-ASSAM-250": "8.90", "TEA-SENCHA-100": "11.50", "TEA-EARLGREY-250": "7.80",
    "COFFEE-FILTER-500": "9.95", "COFFEE-ESPRESSO-1000": "21.00", "COFFEE-DECAF-250": "6.40",
    "CUP-STONEWARE": "14.00", "CUP-GLASS-2": "18.50", "POT-IRON-08": "64.00", "POT-GLASS-12": "39.00",
    "KETTLE-GOOSENECK": "79.00", "GRINDER-HAND": "58.00", "SCALE-01G": "34.90", "FILTER-PAPER-100": "4.20",
    "HONEY-LIME-500": "9.60", "BISCUIT-OAT-300": "5.30",
}  # fmt: skip
FIRST = [
    "ada",
    "ben",
    "chloe",
    "dara",
    "emil",
    "fatou",
    "greta",
    "hugo",
    "ines",
    "jan",
    "kofi",
    "lena",
    "mats",
    "nora",
    "omar",
    "pia",
    "quentin",
    "rosa",
    "sven",
    "tara",
]
LAST = [
    "berg",
    "costa",
    "dubois",
    "evans",
    "fischer",
    "garcia",
    "hansen",
    "ito",
    "jansen",
    "keane",
    "lund",
    "moreau",
    "novak",
    "okafor",
    "petit",
    "quinn",
]

Row = dict[str, object]
Spoil = Callable[[list[Row]], None]


def main() -> None:
    chance = random.Random(20_260_801)
    spoiled = dict(zip(sorted(chance.sample(range(ORDERS), len(SPOILS))), SPOILS, strict=True))
    with Path(__file__).with_name("orders.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for i in range(ORDERS):
            lines = list(_order(chance, i))
            spoiled.get(i, _leave)(lines)
            writer.writerows(lines)


def _order(chance: random.Random, i: int) -> Iterator[Row]:
    country = chance.choices(list(COUNTRIES), weights=[30, 20, 8, 12, 22, 8])[0]
    currency = COUNTRIES[country]
    placed_at = datetime(2026, 8, 1, 6, 0, tzinfo=UTC) + timedelta(
        seconds=97 * i + chance.randrange(90)
    )
    order: Row = {
        "number": 10_001 + i,
        "customer": f"{chance.choice(FIRST)}.{chance.choice(LAST)}@example.com",
        "country": country,
        "currency": currency,
        "card": f"tok_{chance.randrange(16**12):012x}",
        "placed_at": placed_at.isoformat(),
    }
    for sku in chance.sample(
        list(PRICES), chance.choices([1, 2, 3, 4], weights=[45, 30, 17, 8])[0]
    ):
        price = (Decimal(PRICES[sku]) * RATE[currency]).quantize(Decimal("0.01"))
        quantity = chance.choices([1, 2, 3, 6, 12], weights=[60, 22, 9, 6, 3])[0]
        yield {**order, "sku": sku, "quantity": quantity, "unit_price": price}


def _leave(lines: list[Row]) -> None:
    """An order without a mistake."""


def _all(**values: object) -> Spoil:
    """The same mistake on every line of an order."""

    def spoil(lines: list[Row]) -> None:
        for line in lines:
            line.update(values)

    return spoil


def _last(**values: object) -> Spoil:
    """A mistake on an order's last line."""
    return lambda lines: lines[-1].update(values)


SPOILS: list[Spoil] = [
    _last(quantity=0), _all(country="US"), _last(unit_price="-4.20"), _all(customer="ada.lund(at)example.com"),
    _all(country="GB", currency="EUR"), _last(quantity=-1), _all(country="BR"), _last(quantity=500),
    _last(unit_price="0.00"), _all(customer=""), _all(country="SE", currency="DKK"), _last(quantity=51),
    _last(sku="MACHINE-BAR-4", quantity=3, unit_price="9800.00"), _all(country="US", currency="USD"),
]  # fmt: skip


if __name__ == "__main__":
    main()
