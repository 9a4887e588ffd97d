"""What an order is, and which orders the shop takes. Nothing here waits, and nothing knows of everstep."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

CURRENCY = {"DE": "EUR", "FR": "EUR", "IE": "EUR", "NL": "EUR", "GB": "GBP", "SE": "SEK"}
"""The countries the shop sends to, and what they pay in."""

MOST_OF_ONE = 50
MOST_PER_ORDER = Decimal(25_000)


class InvalidOrder(Exception):
    """The customer or the shop made a mistake: trying again does not help."""


@dataclass(frozen=True)
class Line:
    sku: str
    quantity: int
    unit_price: Decimal


@dataclass(frozen=True)
class Order:
    number: int
    customer: str
    country: str
    currency: str
    card: str
    placed_at: datetime
    lines: list[Line]


@dataclass(frozen=True)
class Receipt:
    order: int
    total: Decimal
    currency: str
    payment: str
    tracking: str


def total_of(order: Order) -> Decimal:
    """What the order costs. Raises InvalidOrder with every reason why it cannot be taken."""
    total = sum((line.quantity * line.unit_price for line in order.lines), Decimal(0))
    if reasons := [*_about_customer(order), *_about_lines(order.lines), *_about_total(total)]:
        raise InvalidOrder(f"order {order.number}: {'; '.join(reasons)}")
    return total


def _about_customer(order: Order) -> list[str]:
    reasons = []
    if "@" not in order.customer:
        reasons.append(f"{order.customer!r} is not an e-mail address")
    if order.country not in CURRENCY:
        reasons.append(f"the shop does not send to {order.country}")
    elif order.currency != CURRENCY[order.country]:
        reasons.append(f"{order.country} pays in {CURRENCY[order.country]}, not {order.currency}")
    return reasons


def _about_lines(lines: list[Line]) -> list[str]:
    reasons = [] if lines else ["it has no lines"]
    for line in lines:
        if not 1 <= line.quantity <= MOST_OF_ONE:
            reasons.append(f"{line.quantity} of {line.sku} is not between 1 and {MOST_OF_ONE}")
        if line.unit_price <= 0:
            reasons.append(f"{line.sku} has the price {line.unit_price}")
    return reasons


def _about_total(total: Decimal) -> list[str]:
    return [f"{total} is over the limit of {MOST_PER_ORDER}"] if total > MOST_PER_ORDER else []
