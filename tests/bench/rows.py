"""What is measured: for each row a verb of the side programs, with a size for each of the two systems.

The rival's sizes are smaller where it takes longer; a row shows rates, or values for one workflow, so that they
compare all the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table: what it is called, and where a run's figures hold it."""

    title: str
    key: str
    higher_is_better: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class Row:
    """One measurement, which may give several figures. `theirs` is None for what the rival has not.

    `turns`: fewer than the first table's three where each takes long, so that all of it ends within ten minutes.
    """

    name: str
    program: str
    verb: str
    mine: tuple[str, ...]
    theirs: tuple[str, ...] | None
    figures: tuple[Figure, ...]
    with_worker: bool = False
    turns: int | None = None


def rows(size: float) -> list[Row]:
    """All rows, with the amount of work multiplied by `size`."""
    return [*_first(size), *_waiting(size), *_many(size)]


def _n(count: int, size: float) -> str:
    return str(max(20, round(count * size)))


def _first(size: float) -> list[Row]:
    return [
        Row(
            "one-step",
            "side",
            "throughput",
            ("one", _n(10_000, size)),
            ("one", _n(700, size)),
            (Figure("one-step workflows/s, queued, end to end", "workflows_per_s"),),
        ),
        Row(
            "ten-step",
            "side",
            "throughput",
            ("ten", _n(3_000, size)),
            ("ten", _n(100, size)),
            (Figure("steps/s in ten-step workflows, queued", "workflows_per_s", scale=10),),
        ),
        Row(
            "direct",
            "side",
            "direct",
            (_n(1_000, size),),
            (_n(300, size),),
            (
                Figure("start to result, direct, p50 ms", "p50_ms", higher_is_better=False),
                Figure("start to result, direct, p99 ms", "p99_ms", higher_is_better=False),
            ),
        ),
        Row(
            "latency",
            "side",
            "latency",
            (_n(60, size),),
            (_n(12, size),),
            (
                Figure(
                    "start on a queue to running elsewhere, p50 ms",
                    "p50_ms",
                    higher_is_better=False,
                ),
            ),
            with_worker=True,
        ),
    ]


def _waiting(size: float) -> list[Row]:
    return [
        Row(
            "parked",
            "waiting",
            "parked",
            (_n(10_000, size), _n(300, size)),
            (_n(500, size), _n(300, size)),
            (
                _memory("worker memory per workflow waiting in recv, kB", "worker_kb"),
                _memory("database per workflow waiting in recv, kB", "database_kb"),
                Figure("send to running again, idle, p50 ms", "p50_ms", higher_is_better=False),
                Figure("send to running again, idle, p99 ms", "p99_ms", higher_is_better=False),
            ),
            with_worker=True,
            turns=2,
        ),
        Row(
            "parked-many",
            "waiting",
            "asleep",
            (_n(100_000, size),),
            None,
            (
                Figure("workflows/s into a long sleep, up to 100,000", "parked_per_s"),
                _memory("worker memory per workflow asleep, kB", "worker_kb"),
                _memory("database per workflow asleep, kB", "database_kb"),
            ),
            with_worker=True,
            turns=1,
        ),
        Row(
            "wake-many",
            "waiting",
            "event",
            (_n(1_000, size),),
            (_n(1_000, size),),
            (
                Figure(
                    "1,000 waiting for one event: published to all running, s",
                    "seconds",
                    higher_is_better=False,
                ),
            ),
            with_worker=True,
            turns=2,
        ),
    ]


def _memory(title: str, key: str) -> Figure:
    return Figure(title, key, higher_is_better=False)


def _many(size: float) -> list[Row]:
    # The rival claims as many as the limit allows once a second, so its counts are some seconds' worth.
    limits = [(1, 500, 5), (10, 2_000, 40), (100, 5_000, 300)]
    return [
        *(
            Row(
                f"limit-{limit}",
                "many",
                "limited",
                (str(limit), _n(count, size)),
                (str(limit), str(max(limit, round(theirs * size)))),
                (
                    Figure(
                        f"workflows/s, queue with a limit of {limit} over all workers",
                        "workflows_per_s",
                    ),
                ),
                turns=1,
            )
            for limit, count, theirs in limits
        ),
        Row(
            "ticks",
            "many",
            "ticks",
            (_n(10_000, size),),
            (_n(500, size),),
            (Figure("schedule: past ticks backfilled and finished, workflows/s", "ticks_per_s"),),
            turns=1,
        ),
        Row(
            "fan-out",
            "many",
            "fan_out",
            (_n(10_000, size),),
            (_n(500, size),),
            (Figure("one parent, its children awaited: children/s", "children_per_s"),),
            turns=1,
        ),
        Row(
            "start-many",
            "many",
            "start_many",
            (_n(10_000, size),),
            (_n(2_000, size),),
            (Figure("workflows/s started by one client", "starts_per_s"),),
            turns=1,
        ),
    ]
