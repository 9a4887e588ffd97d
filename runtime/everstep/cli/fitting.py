"""How wide each column of a table is where there is less room than it would take. Pure; printing is output.py's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
"""Between two columns."""

LEAST = 16
"""Of a text that is cut: less of it says nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """`wide`: what it would take. `least`: what makes sense; equal to `wide` where nothing may be cut.

    `rank`: the first to go has the highest; that of 0 stays, and is cut to half of the room if need be.
    """

    wide: int
    least: int
    rank: int
    empty: bool = False


def fitted(columns: Sequence[Column], room: int) -> list[int]:
    """A width for each column, so that together they take no more than `room`; 0 for one that is left out.

    Columns that say nothing go first. Then long texts are cut, but to no less than makes sense: the rest is made by
    leaving out columns, those that matter least first.
    """
    widths = {place: column.wide for place, column in enumerate(columns)}
    leasts = {
        place: column.least if column.rank else min(column.wide, max(room // 2, 1))
        for place, column in enumerate(columns)
    }
    by_rank = sorted(widths, key=lambda place: columns[place].rank, reverse=True)
    for place in by_rank:
        if columns[place].rank and columns[place].empty and _taken(widths) > room:
            del widths[place], leasts[place]
    for place in by_rank:
        if columns[place].rank and place in leasts and _taken(leasts) > room:
            del widths[place], leasts[place]
    _cut(widths, leasts, room)
    return [widths.get(place, 0) for place in range(len(columns))]


def _cut(widths: dict[int, int], leasts: dict[int, int], room: int) -> None:
    """The widest first, as far as they may be."""
    for place, width in widths.items():
        widths[place] = max(leasts[place], min(width, room))
    while _taken(widths) > room and (long := [p for p in widths if widths[p] > leasts[p]]):
        widths[max(long, key=widths.__getitem__)] -= 1


def _taken(widths: dict[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)
