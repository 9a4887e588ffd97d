"""Queues as values, the order in which lanes are claimed from, and limits on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from everstep import App, Queue, Rate
from everstep.cli import rates
from everstep.engine.lanes import FULL_LOOK_SECONDS, SKEW, Cursors, Offer, offers
from everstep.errors import UsageError
from everstep.queues import queue_name
from everstep.store.models import Lane

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def ago(**span):
    return NOW - timedelta(**span)


# -- declarations ----------------------------------------------------------------------------------


def test_a_declared_queue_is_usable_as_an_object_and_by_name():
    app = App("shop")
    checkout = app.queue("checkout", max_running=5)

    @app.workflow(queue=checkout)
    async def one() -> None: ...

    @app.workflow(queue="checkout")
    async def two() -> None: ...

    assert one.queue == two.queue == "checkout"
    assert app.queues() == ["checkout", "default"]


def test_a_declared_queue_is_listened_to_even_if_no_workflow_names_it():
    app = App("shop")
    app.queue("night")
    assert app.queues() == ["default", "night"]


def test_the_same_declaration_twice_is_fine_and_another_one_is_not():
    app = App("shop")
    assert app.queue("q", max_running=1) == app.queue("q", max_running=1)
    with pytest.raises(UsageError, match="queue q twice"):
        app.queue("q", max_running=2)


def test_what_is_not_declared_is_said_to_be_unlimited():
    queue = Queue(name="q", rate=Rate(100, timedelta(minutes=1), burst=20))
    assert queue.declaration() == {
        "worker_concurrency": None,
        "max_running": None,
        "rate": [100, 60.0, 20],
        "partition_max_running": None,
        "partition_rate": None,
    }


@pytest.mark.parametrize("limit", ["worker_concurrency", "max_running", "partition_max_running"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", 2**31])
def test_a_limit_is_a_whole_number_of_at_least_one(limit, value):
    with pytest.raises(UsageError, match=f"queue q: {limit} is a whole number"):
        Queue(name="q", **{limit: value})


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_a_queue_has_a_printable_name(name):
    for take in (queue_name, lambda name: Queue(name=name)):
        with pytest.raises(UsageError, match="printable name"):
            take(name)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(UsageError, match="starts is a whole number"):
        Rate(0)
    with pytest.raises(UsageError, match="burst is a whole number"):
        Rate(1, burst=0)
    with pytest.raises(UsageError, match="between 1 ms and 366 days"):
        Rate(1, timedelta(0))
    with pytest.raises(UsageError, match="written Rate"):
        Queue(name="q", rate=100)


# -- the order of lanes ----------------------------------------------------------------------------


def offer(**heads):
    lanes = [Lane("q", int(name[1]), oldest) for name, oldest in heads.items()]
    (made,) = offers(lanes)
    return made


def test_the_only_lane_is_claimed_without_a_bound():
    assert offer(p2=ago(hours=1)).next() == (2, None)


def test_of_two_that_came_together_the_more_urgent_goes_first():
    assert offer(p3=NOW, p0=NOW, p1=NOW).next()[0] == 0


def test_a_workflow_counts_as_a_minute_younger_for_each_priority():
    assert offer(p0=NOW, p3=ago(minutes=2, seconds=59)).next()[0] == 0
    assert offer(p0=NOW, p3=ago(minutes=3, seconds=1)).next()[0] == 3


def test_a_lane_is_left_where_another_one_is_due():
    priority, until = offer(p0=ago(minutes=10), p1=ago(minutes=5)).next()
    assert priority == 0
    assert until == ago(minutes=4) + timedelta(seconds=1)


def test_a_lane_that_gave_all_that_was_asked_for_goes_on_from_there():
    made = offer(p0=ago(minutes=10), p1=ago(minutes=10))
    made.took(0, ago(minutes=9), newest=ago(minutes=9, seconds=30), full=True)
    assert made.heads == {0: ago(minutes=9, seconds=30), 1: ago(minutes=10)}
    assert made.next()[0] == 0


def test_a_lane_that_gave_less_up_to_its_bound_comes_back_after_the_others():
    made = offer(p0=ago(minutes=10), p1=ago(minutes=10))
    priority, until = made.next()
    made.took(priority, until, newest=ago(minutes=9, seconds=30), full=False)
    assert made.next()[0] == 1


def test_a_lane_that_gave_less_without_a_bound_is_empty():
    made = offer(p0=NOW)
    made.took(0, None, newest=None, full=False)
    assert made.next() is None


def test_lanes_with_few_old_workflows_are_crossed_in_few_claims():
    """Two lanes of which nothing can be claimed, a day old: no claim for each second of it."""
    made = offer(p0=ago(days=1), p1=ago(days=1))
    for claims in range(1, 100):  # noqa: B007
        priority, until = made.next()
        if until is not None and until > NOW:
            break
        made.took(priority, until, newest=None, full=False)
    assert claims < 50


def test_a_queue_is_claimed_under_its_lock_if_any_of_it_has_a_limit_or_a_partition():
    found = list(offers([Lane("b", 1, NOW), Lane("a", 0, NOW), Lane("b", None, NOW, limited=True)]))
    assert [(o.queue, o.limited, o.heads) for o in found] == [
        ("a", False, {0: NOW}),
        ("b", True, {1: NOW}),
    ]


def test_suspects_are_offered_apart_from_what_is_ready():
    (made,) = offers([Lane("q", 2, None, suspects=True), Lane("q", None, NOW, suspects=True)])
    assert made.suspects == [2, None]
    assert isinstance(made, Offer)
    assert made.heads == {}


# -- cursors ---------------------------------------------------------------------------------------


def test_a_lane_is_looked_at_from_just_below_the_newest_claimed():
    cursors = Cursors(clock=lambda: 0.0)
    assert cursors.begin(["q"])[1].cursor is None
    cursors.claimed("q", 1, NOW)
    assert [look.cursor for look in cursors.begin(["q"])] == [None, NOW - SKEW, None, None]


def test_a_cursor_never_goes_back_for_good():
    cursors = Cursors(clock=lambda: 0.0)
    cursors.begin(["q"])
    cursors.claimed("q", 1, NOW)
    cursors.claimed("q", 1, ago(hours=1))
    assert cursors.begin(["q"])[1].cursor == NOW - SKEW


def test_a_lane_full_of_what_is_for_others_is_looked_at_more_rarely():
    now = 0.0
    cursors = Cursors(clock=lambda: now)
    cursors.in_vain("q", 1, 0.1)
    assert [look.priority for look in cursors.begin(["q"])] == [0, 2, 3]
    now = 0.99
    assert [look.priority for look in cursors.begin(["q"])] == [0, 2, 3]
    now = 1.0
    assert [look.priority for look in cursors.begin(["q"])] == [0, 1, 2, 3]
    assert cursors.rest() is None
    cursors.in_vain("q", 1, 60.0)
    assert cursors.rest() == 2.0
    now = 3.0
    assert len(cursors.begin(["q"])) == 4


def test_a_claim_that_cost_little_in_vain_makes_no_lane_rarer():
    cursors = Cursors(clock=lambda: 0.0)
    cursors.in_vain("q", 1, 0.04)
    assert len(cursors.begin(["q"])) == 4
    assert cursors.rest() is None


def test_every_ten_seconds_whole_lanes_are_looked_at_and_gone_through_from_there():
    now = 0.0
    cursors = Cursors(clock=lambda: now)
    cursors.begin(["q"])
    cursors.claimed("q", 1, NOW)
    now = FULL_LOOK_SECONDS
    assert cursors.begin(["q"])[1].cursor is None
    cursors.claimed("q", 1, ago(hours=1))
    assert cursors.of("q", 1) == ago(hours=1) - SKEW
    assert cursors.begin(["q"])[1].cursor == NOW - SKEW


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", Rate(100)),
        ("5/m", Rate(5, timedelta(minutes=1))),
        ("10/30s", Rate(10, timedelta(seconds=30))),
        ("1000/h burst 50", Rate(1000, timedelta(hours=1), burst=50)),
        ("none", None),
    ],
)
def test_a_rate_is_written_as_the_list_shows_it(text, rate):
    assert rates.rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "100", "100/", "x/s", "100/parsec", "0/s", "1/s burst 0", "1/s burst"]
)
def test_a_rate_that_cannot_be_read_is_named(text):
    with pytest.raises(click.BadParameter, match=r"is not a rate|is not a duration|whole number"):
        rates.rate(text)


def test_a_count_is_at_least_one_or_none():
    assert rates.count("20") == 20
    assert rates.count("none") is None
    for text in ("0", "-1", "1.5", "many", "9" * 12):
        with pytest.raises(click.BadParameter, match="whole number"):
            rates.count(text)
