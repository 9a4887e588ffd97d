"""Ids of workflows that were not given one: UUIDv7 without dashes, so that new rows land beside each other."""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """32 hexadecimal digits: 48 bits of Unix milliseconds, then version, variant and 74 random bits (RFC 9562)."""
    random = int.from_bytes(os.urandom(10))
    high = 0x7000 | (random >> 68)
    low = 0x8000_0000_0000_0000 | (random & 0x3FFF_FFFF_FFFF_FFFF)
    return f"{time.time_ns() // 1_000_000:012x}{high:04x}{low:016x}"
