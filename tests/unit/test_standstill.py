"""What tests that measure seconds leave out of account."""

from __future__ import annotations

import time

from support.standstill import Standstill
from support.waiting import eventually_now


def test_time_in_which_nothing_can_run_is_counted() -> None:
    with Standstill() as still:
        began = time.monotonic()
        sum(range(10_000_000))  # in C, and no other thread of this process runs meanwhile
        lasted = time.monotonic() - began
        eventually_now(lambda: still.seconds > 0.3 * lasted)
