"""The shop's workflow: `everstep worker orders.app:app` runs it.

ORDERS_PACKING_SECONDS   how long packing takes (default 2)
ORDERS_LEDGER            where charges are written down (orders/outside.py)
ORDERS_PROVIDER_FAILURES fraction of attempts that the payment provider refuses (default 0.1)
ORDERS_PROVIDER_SECONDS  how long the provider takes to answer (default 0.02)
ORDERS_SEED              which attempts those are (default 1)
"""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from functools import cache

import everstep
from everstep import App, Retry
from orders.model import Order, Receipt, total_of
from orders.outside import Database, Provider, ProviderDown, ledger_from_environment

PACKING = timedelta(seconds=float(os.environ.get("ORDERS_PACKING_SECONDS", "2")))

app = App("orders")


@app.workflow(name="checkout", queue="checkout")
async def checkout(order: Order) -> Receipt:
    total = await validate(order)
    payment = await charge(order, total)
    await book(order, total, payment)
    await everstep.sleep(PACKING)
    tracking = await ship(order)
    return Receipt(order.number, total, order.currency, payment, tracking)


@app.step
async def validate(order: Order) -> Decimal:
    return total_of(order)


@app.step(
    retry=Retry(max_attempts=8, interval=timedelta(seconds=0.1), retry_on=(ProviderDown,)),
    timeout=timedelta(seconds=10),
)
async def charge(order: Order, total: Decimal) -> str:
    step = everstep.step_context()
    # The key is the same for each attempt and each replay: a real provider charges once per key.
    return await provider().charge(
        step.idempotency_key,
        order_id=step.workflow_id,
        attempt=step.attempt,
        amount=total,
        currency=order.currency,
    )


@app.step(retry=Retry(max_attempts=5))
async def book(order: Order, total: Decimal, payment: str) -> None:
    step = everstep.step_context()
    await database().execute(
        "INSERT INTO orders.booking (key, order_id, customer, amount, currency, payment) "
        "VALUES (%s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (key) DO UPDATE SET executions = orders.booking.executions + 1",
        [step.idempotency_key, step.workflow_id, order.customer, total, order.currency, payment],
    )


@app.step(retry=Retry(max_attempts=5))
async def ship(order: Order) -> str:
    step = everstep.step_context()
    tracking = f"{order.country}{order.number:09d}"
    await database().execute(
        "INSERT INTO orders.shipment (key, order_id, tracking) VALUES (%s, %s, %s) "
        "ON CONFLICT (key) DO UPDATE SET executions = orders.shipment.executions + 1",
        [step.idempotency_key, step.workflow_id, tracking],
    )
    return tracking


@cache
def provider() -> Provider:
    return Provider(
        ledger_from_environment(),
        seed=os.environ.get("ORDERS_SEED", "1"),
        failure_rate=float(os.environ.get("ORDERS_PROVIDER_FAILURES", "0.1")),
        seconds=float(os.environ.get("ORDERS_PROVIDER_SECONDS", "0.02")),
    )


@cache
def database() -> Database:
    return Database(os.environ["EVERSTEP_DATABASE_URL"])
