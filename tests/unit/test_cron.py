from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from support.schedules import expected_ticks, utc

from everstep.cron import Cron, Every, make_timing, ticks
from everstep.errors import UsageError

ZONES = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Antarctica/Troll",
)

# Each by hand, from the dates on which the clocks change: expression, zone, and the ticks that follow each other.
BY_HAND = {
    "before the gap": ("30 1 29 3 *", "Europe/Paris", ["2026-03-29T01:30+01:00"]),
    "in the gap": ("30 2 29 3 *", "Europe/Paris", ["2026-03-29T03:00+02:00"]),
    "at the gap's first moment": ("0 2 29 3 *", "Europe/Paris", ["2026-03-29T03:00+02:00"]),
    "at the gap's end": ("0 3 29 3 *", "Europe/Paris", ["2026-03-29T03:00+02:00"]),
    "in the gap and at its end is one tick": (
        "0,15,30,45 2-3 29 3 *",
        "Europe/Paris",
        ["2026-03-29T03:00+02:00", "2026-03-29T03:15+02:00", "2026-03-29T03:30+02:00"],
    ),
    "daily across the gap": (
        "30 2 * * *",
        "Europe/Paris",
        ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
    ),
    "with seconds, in the gap": ("15 30 2 29 3 *", "Europe/Paris", ["2026-03-29T03:00:00+02:00"]),
    "every quarter, in the gap": (
        "*/15 * * * *",
        "Europe/Paris",
        ["2026-03-29T01:45+01:00", "2026-03-29T03:00+02:00", "2026-03-29T03:15+02:00"],
    ),
    "a star for the minute, in the gap": (
        "*/30 2 29 3 *",
        "Europe/Paris",
        ["2026-03-29T03:00+02:00", "2027-03-29T02:00+02:00"],
    ),
    "repeated hour, once": (
        "30 2 * * *",
        "Europe/Paris",
        ["2026-10-24T02:30+02:00", "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
    ),
    "the repeated hour's first moment": (
        "0 2,3 25 10 *",
        "Europe/Paris",
        ["2026-10-25T02:00+02:00", "2026-10-25T03:00+01:00"],
    ),
    "a star for the minute, repeated hour": (
        "*/30 2 25 10 *",
        "Europe/Paris",
        ["2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00", "2027-10-25T02:00+02:00"],
    ),
    "with seconds, repeated hour": (
        "30 30 2 25 10 *",
        "Europe/Paris",
        ["2026-10-25T02:30:30+02:00", "2027-10-25T02:30:30+02:00"],
    ),
    "a rhythm goes on through the repeated hour": (
        "*/30 * * * *",
        "Europe/Paris",
        [
            "2026-10-25T02:00+02:00",
            "2026-10-25T02:30+02:00",
            "2026-10-25T02:00+01:00",
            "2026-10-25T02:30+01:00",
            "2026-10-25T03:00+01:00",
        ],
    ),
    "a rhythm of one day ends with the second pass": (
        "45 * 25 10 *",
        "Europe/Paris",
        [
            "2026-10-25T01:45+02:00",
            "2026-10-25T02:45+02:00",
            "2026-10-25T02:45+01:00",
            "2026-10-25T03:45+01:00",
        ],
    ),
    "New York, in the gap": (
        "30 2 * * *",
        "America/New_York",
        ["2026-03-07T02:30-05:00", "2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"],
    ),
    "New York, repeated hour": (
        "30 1 * * *",
        "America/New_York",
        ["2026-10-31T01:30-04:00", "2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"],
    ),
    "Lord Howe, a gap of half an hour": (
        "15 2 * * *",
        "Australia/Lord_Howe",
        ["2026-10-03T02:15+10:30", "2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
    ),
    "Lord Howe, just after the gap": (
        "45 2 4 10 *",
        "Australia/Lord_Howe",
        ["2026-10-04T02:45+11:00"],
    ),
    "Lord Howe, the repeated half hour, once": (
        "45 1 * * *",
        "Australia/Lord_Howe",
        ["2026-04-04T01:45+11:00", "2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"],
    ),
    "Lord Howe, a rhythm in the repeated half hour": (
        "*/15 * 5 4 *",
        "Australia/Lord_Howe",
        [
            "2026-04-05T01:30+11:00",
            "2026-04-05T01:45+11:00",
            "2026-04-05T01:30+10:30",
            "2026-04-05T01:45+10:30",
            "2026-04-05T02:00+10:30",
        ],
    ),
    "Lord Howe, hourly over the gap": (
        "0 * * * *",
        "Australia/Lord_Howe",
        ["2026-10-04T01:00+10:30", "2026-10-04T02:30+11:00", "2026-10-04T03:00+11:00"],
    ),
    "Casablanca, Ramadan begins: repeated hour": (
        "30 2 * * *",
        "Africa/Casablanca",
        ["2026-02-14T02:30+01:00", "2026-02-15T02:30+01:00", "2026-02-16T02:30+00:00"],
    ),
    "Casablanca, Ramadan ends: gap": (
        "30 2 * * *",
        "Africa/Casablanca",
        ["2026-03-21T02:30+00:00", "2026-03-22T03:00+01:00", "2026-03-23T02:30+01:00"],
    ),
    "Beirut, a gap at midnight": (
        "0 0 * * *",
        "Asia/Beirut",
        ["2026-03-28T00:00+02:00", "2026-03-29T01:00+03:00", "2026-03-30T00:00+03:00"],
    ),
    "Beirut, the last hour of a day comes twice": (
        "30 23 24 10 *",
        "Asia/Beirut",
        ["2026-10-24T23:30+03:00", "2027-10-24T23:30+03:00"],
    ),
    "Troll, a gap of two hours": (
        "10 1,2 29 3 *",
        "Antarctica/Troll",
        ["2026-03-29T03:00+02:00", "2027-03-29T01:10+02:00"],
    ),
    "Troll, two hours that come twice": (
        "0 1,2 25 10 *",
        "Antarctica/Troll",
        ["2026-10-25T01:00+02:00", "2026-10-25T02:00+02:00", "2027-10-25T01:00+02:00"],
    ),
    "Apia, a day that was left out": (
        "0 7 * * *",
        "Pacific/Apia",
        ["2011-12-29T07:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T07:00+14:00"],
    ),
    "Kolkata, no change at all": (
        "30 2 29 3 *",
        "Asia/Kolkata",
        ["2026-03-29T02:30+05:30", "2027-03-29T02:30+05:30"],
    ),
    "UTC": ("30 2 29 3 *", "UTC", ["2026-03-29T02:30+00:00"]),
}


@pytest.mark.parametrize("case", BY_HAND, ids=list(BY_HAND))
def test_ticks_by_hand(case):
    expression, zone, texts = BY_HAND[case]
    expected = [datetime.fromisoformat(text) for text in texts]
    timing = Cron(expression, zone)
    found = list(islice(ticks(timing, expected[0], utc("2100-01-01")), len(expected)))
    assert found == expected
    assert [timing.local(tick).utcoffset() for tick in found] == [e.utcoffset() for e in expected]


@pytest.mark.parametrize("case", BY_HAND, ids=list(BY_HAND))
def test_the_next_tick_is_the_same_from_any_moment_between_two(case, rng):
    expression, zone, texts = BY_HAND[case]
    timing = Cron(expression, zone)
    expected = [datetime.fromisoformat(text) for text in texts]
    for one, following in pairwise(expected):
        span = (following - one).total_seconds()
        for _ in range(20):
            assert timing.after(one + timedelta(seconds=rng.uniform(0, span * 0.999))) == following


def random_expression(rng: random.Random) -> str:
    minute = rng.choice(["0", "30", "15", "59", "*", "*/7", "*/20", "5-25/5", "0,10,50"])
    hour = rng.choice(["*", "*", "0", "1", "2", "3", "23", "1-3", "*/2", "*/3", "0,2,4"])
    day, month, weekday = rng.choice(
        [
            ("*", "*", "*"),
            ("*", "*", "*"),
            ("*", "*", "SUN"),
            ("*", "3,4,10,11", "0,6"),
            ("25-31", "*", "*"),
            ("1", "*", "SUN"),
            ("*/2", "*", "6"),
        ]
    )
    return f"{minute} {hour} {day} {month} {weekday}"


CHANGES = ("2026-02-15", "2026-03-08", "2026-03-22", "2026-03-29", "2026-04-05")
CHANGES_BACK = ("2026-10-04", "2026-10-24", "2026-10-25", "2026-11-01")


@pytest.mark.parametrize("zone", ZONES)
def test_ticks_are_those_that_a_look_at_every_minute_finds(zone, rng):
    for change in (*CHANGES, *CHANGES_BACK):
        start, end = utc(change) - timedelta(days=1), utc(change) + timedelta(days=2)
        expression = random_expression(rng)
        found = list(ticks(Cron(expression, zone), start, end))
        assert found == list(expected_ticks(expression, zone, start, end)), (expression, change)


def test_a_rhythm_of_seconds_misses_none_and_repeats_none():
    start, end = utc("2026-10-25T00:30"), utc("2026-10-25T01:30")
    found = list(ticks(Cron("*/10 * * * * *", "Europe/Paris"), start, end))
    assert found == [start + timedelta(seconds=10 * n) for n in range(360)]


def test_six_fields_have_seconds_first():
    timing = Cron("5 4 3 2 1 *", "UTC")
    assert timing.after(utc("2026-01-01")) == utc("2026-01-02T03:04:05")


def test_a_tick_is_later_than_the_moment_asked_about():
    timing = Cron("0 7 * * *", "UTC")
    assert timing.after(utc("2026-01-01T07:00")) == utc("2026-01-02T07:00")
    assert timing.after(utc("2026-01-01T06:59:59.999999")) == utc("2026-01-01T07:00")


def test_the_tick_is_handed_over_in_local_time():
    tick = utc("2026-07-01T22:30")
    assert Cron("30 0 * * *", "Europe/Paris").local(tick).isoformat() == "2026-07-02T00:30:00+02:00"
    assert Every(timedelta(minutes=30)).local(tick).isoformat() == "2026-07-01T22:30:00+00:00"


@pytest.mark.parametrize(
    ("interval", "after", "tick"),
    [
        (timedelta(seconds=1), "2026-01-01T00:00:00.5", "2026-01-01T00:00:01"),
        (timedelta(minutes=15), "2026-01-01T00:07", "2026-01-01T00:15"),
        (timedelta(days=1), "2026-01-01T00:00", "2026-01-02T00:00"),
        (timedelta(days=7), "2026-11-22T12:00", "2026-11-23T00:00"),  # a Monday
    ],
)
def test_an_interval_is_counted_from_the_first_monday(interval, after, tick):
    assert Every(interval).after(utc(after)) == utc(tick)


@pytest.mark.parametrize(
    ("expression", "zone", "says"),
    [
        ("* * * *", "UTC", "five fields"),
        ("60 * * * *", "UTC", "Bad minute"),
        ("0 0 30 2 *", "UTC", "Bad day-of-month"),
        ("0 7 * * *", "Europe/Pariss", "no time zone 'Europe/Pariss'"),
        ("0 7 * * *", "../etc/passwd", "no time zone"),
        ("0 7 * * *", "", "no time zone"),
        ("@daily", "UTC", "five fields"),
        ("0 0 29 2 */8", "UTC", None),
    ],
)
def test_a_wrong_expression_says_what_is_right(expression, zone, says):
    if says is None:
        assert Cron(expression, zone).after(utc("2026-01-01")) is not None
        return
    with pytest.raises(UsageError, match=says):
        Cron(expression, zone)


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=1.5), timedelta(days=4000)])
def test_an_interval_is_whole_seconds(interval):
    with pytest.raises(UsageError, match="whole number of seconds, at least one"):
        Every(interval)


def test_a_timing_is_a_cron_expression_or_an_interval():
    assert make_timing("0  7 * * *", None, "UTC") == Cron("0 7 * * *", "UTC")
    assert make_timing(None, timedelta(hours=1), "UTC") == Every(timedelta(hours=1))
    for both in ((None, None), ("0 7 * * *", timedelta(hours=1))):
        with pytest.raises(UsageError, match="either"):
            make_timing(*both, "UTC")


def test_a_moment_without_an_offset_is_the_schedules_own():
    seven = datetime.fromisoformat("2026-07-01T07:00")
    paris, hourly = Cron("0 7 * * *", "Europe/Paris"), Every(timedelta(hours=1))
    assert paris.instant(seven) == utc("2026-07-01T05:00")
    assert paris.instant(seven.replace(tzinfo=UTC)) == utc("2026-07-01T07:00")
    assert hourly.instant(seven) == utc("2026-07-01T07:00")
