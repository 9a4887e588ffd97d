"""The number of the newest engine migration this code brings."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def newest_known() -> int:
    names = (f.name for f in files("everstep.migrations").iterdir())
    return max(int(name[:4]) for name in names if name[:4].isdigit())
