"""Widths of columns where there is less room than they would take."""

from __future__ import annotations

import random

from everstep.cli.fitting import GAP, LEAST, Column, fitted


def test_where_there_is_room_all_have_what_they_take():
    assert fitted([Column(32, 32, 0), Column(200, 16, 1)], 234) == [32, 200]


def test_a_long_text_is_cut_before_anything_is_left_out():
    assert fitted([Column(32, 32, 0), Column(200, 16, 1), Column(19, 19, 2)], 80) == [32, 25, 19]


def test_what_cannot_be_cut_is_left_out_and_what_matters_least_first():
    id_, text, time, number = (
        Column(32, 32, 0),
        Column(50, 16, 1),
        Column(19, 19, 2),
        Column(5, 5, 3),
    )
    assert fitted([id_, text, time, number], 80) == [32, 18, 19, 5]
    assert fitted([id_, text, time, number], 73) == [32, 18, 19, 0]
    assert fitted([id_, text, time, number], 66) == [32, 32, 0, 0]


def test_a_column_that_says_nothing_goes_before_any_text_is_cut():
    columns = [Column(10, 10, 0), Column(20, 16, 1), Column(6, 6, 2, empty=True)]
    assert fitted(columns, 40) == [10, 20, 6]
    assert fitted(columns, 39) == [10, 20, 0]


def test_an_id_of_any_length_leaves_half_of_the_room_to_others():
    assert fitted([Column(500, 500, 0), Column(9, 9, 1)], 80) == [69, 9]
    assert fitted([Column(500, 500, 0), Column(900, 16, 1)], 80)[1] >= LEAST


def test_no_line_is_too_long_and_nothing_whole_is_cut(rng: random.Random):
    for _ in range(300):
        columns = [Column(rng.randrange(1, 300), 0, 0)]
        for rank in range(1, rng.randrange(2, 12)):
            wide = rng.choice([4, 9, 19, rng.randrange(1, 400)])
            least = rng.choice([wide, min(wide, LEAST)])
            columns.append(Column(wide, least, rank, empty=rng.random() < 0.2))
        room = rng.randrange(20, 250)
        widths = fitted(columns, room)
        shown = [width for width in widths if width]
        assert sum(shown) + GAP * (len(shown) - 1) <= room
        assert widths[0], "the id is always there"
        for column, width in zip(columns[1:], widths[1:], strict=True):
            assert width == 0 or column.least <= width <= column.wide
