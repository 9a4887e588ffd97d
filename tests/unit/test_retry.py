"""When a failed step is tried again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep import Retry, UsageError


def test_the_waits_grow_up_to_their_limit():
    retry = Retry(
        max_attempts=10,
        interval=timedelta(seconds=1),
        backoff=2,
        max_interval=timedelta(seconds=10),
        jitter=0,
    )
    waits = [retry.delay_after(n, ValueError(), 0.5) for n in range(1, 11)]
    assert waits == [1, 2, 4, 8, 10, 10, 10, 10, 10, None]


@given(
    attempt=st.integers(1, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
    backoff=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
)
def test_no_wait_is_negative_or_longer_than_the_limit(attempt, chance, backoff, jitter):
    retry = Retry(max_attempts=10_001, backoff=backoff, jitter=jitter)
    delay = retry.delay_after(attempt, ValueError(), chance)
    assert delay is not None
    assert 0 <= delay <= retry.max_interval.total_seconds()


def test_jitter_takes_away_up_to_its_fraction():
    retry = Retry(interval=timedelta(seconds=8), jitter=0.25)
    assert retry.delay_after(1, ValueError(), 0.0) == 8
    assert retry.delay_after(1, ValueError(), 1.0) == 6


@pytest.mark.parametrize(
    ("error", "again"),
    [(TimeoutError(), True), (ConnectionRefusedError(), False), (ValueError(), False)],
)
def test_only_the_chosen_errors_are_tried_again(error, again):
    retry = Retry(retry_on=(OSError,), give_up_on=(ConnectionError,))
    assert (retry.delay_after(1, error, 0) is not None) is again


def test_a_predicate_chooses_among_the_errors_that_may_be_tried_again():
    busy = Retry(retry_on=(OSError,), retry_if=lambda error: error.errno == 16)
    assert busy.delay_after(1, OSError(16, "busy"), 0) is not None
    assert busy.delay_after(1, OSError(2, "gone"), 0) is None
    assert busy.delay_after(1, ValueError(), 0) is None  # and is not asked about others


async def nobody_awaits(error: Exception) -> bool:
    return False


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_attempts": 0}, "at least 1, not 0"),
        ({"max_attempts": "3"}, "at least 1, not '3'"),
        ({"backoff": 0.5}, "backoff is a number of at least 1, not 0.5"),
        ({"backoff": float("nan")}, "backoff"),
        ({"jitter": 1.5}, "between 0 and 1, not 1.5"),
        ({"jitter": -0.1}, "between 0 and 1"),
        ({"jitter": True}, "between 0 and 1, not True"),
        ({"interval": timedelta(seconds=-1)}, "interval is a timedelta, and not negative"),
        ({"interval": 5}, "interval is a timedelta, and not negative: not 5"),
        ({"max_interval": 60.0}, "max_interval is a timedelta"),
        ({"retry_on": ("ValueError",)}, "retry_on is a tuple of exception classes"),
        ({"give_up_on": [OSError]}, "give_up_on is a tuple of exception classes"),
        ({"retry_if": 3}, "retry_if takes a function"),
        ({"retry_if": nobody_awaits}, "retry_if takes a plain function"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong, why):
    with pytest.raises(UsageError, match=why):
        Retry(**wrong)


def test_one_class_of_errors_needs_no_tuple():
    assert Retry(retry_on=OSError).delay_after(1, OSError(), 0) == 1
