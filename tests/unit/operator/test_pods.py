"""What a pod's status says, in words that do not flicker."""

from typing import Any

import pytest

from everstep_operator.pods import pod, runs

BASE = {"name": "worker", "image": "orders:v2", "restartCount": 0, "ready": False}


def made(*statuses: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "labels": {"everstep.dev/version": "v2", "app.kubernetes.io/component": "worker"},
            "annotations": {"everstep.dev/version": "v2"},
        },
        "status": {"containerStatuses": list(statuses), **more},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {**BASE, "state": {"waiting": {"reason": reason, "message": message}}}


def crashed(code: int, **more: Any) -> dict[str, Any]:
    return {
        **BASE,
        "restartCount": 2,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": code, "reason": "Error", **more}},
    }


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (waiting("ErrImagePull", "not found"), "ImagePullFailed", "orders:v2 cannot be pulled"),
        (waiting("ImagePullBackOff", "Back-off pulling image"), "ImagePullFailed", "cannot be"),
        (
            waiting("CreateContainerConfigError", 'secret "orders-db" not found'),
            "ContainerNotCreated",
            'secret "orders-db" not found',
        ),
        (crashed(2), "Crashing", "module that does not import"),
        (crashed(4), "Crashing", "too old or too new"),
        (crashed(1, message="line\nValueError: x"), "Crashing", "ValueError: x"),
        (crashed(137), "Crashing", "out of memory"),
    ],
)
def test_trouble_is_named_and_explained(status: dict[str, Any], reason: str, words: str) -> None:
    found = pod(made(status)).trouble
    assert found
    assert found.reason == reason
    assert words in found.message


def test_both_spellings_of_a_failed_pull_are_one_message() -> None:
    detail = "failed to resolve reference"
    first = pod(made(waiting("ErrImagePull", detail))).trouble
    second = pod(
        made(waiting("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {detail}'))
    ).trouble
    assert first == second


def test_the_seconds_of_a_back_off_are_not_repeated() -> None:
    message = "back-off 40s restarting failed container"
    loop = {**crashed(2), "state": {"waiting": {"reason": "CrashLoopBackOff", "message": message}}}
    assert pod(made(loop)).trouble == pod(made(crashed(2))).trouble


def test_a_pod_no_node_takes_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "Insufficient memory"}
    found = pod(made(conditions=[condition])).trouble
    assert found
    assert (found.reason, found.message) == ("Unschedulable", "Insufficient memory")


def test_a_healthy_pod_and_one_that_leaves_are_no_trouble() -> None:
    healthy = {**BASE, "ready": True, "restartCount": 1, "state": {"running": {}}}
    assert pod(made(healthy)).trouble is None
    leaving = made(crashed(2))
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert pod(leaving).trouble is None


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ('{"code": "MigrationFailed", "file": "0002.sql"}', 5, "MigrationFailed"),
        ("Traceback …\nValueError: x", 1, "Error"),
        ("", 137, "Error"),
    ],
)
def test_a_migration_s_last_words_are_read(message: str, code: int, expected: str) -> None:
    ended = {"exitCode": code, "reason": "Error", "message": message}
    found = pod(made({**BASE, "state": {"terminated": ended}})).report
    assert found
    assert found["code"] == expected


@pytest.mark.parametrize(
    ("phase", "expected"), [("Running", True), ("Failed", False), ("Succeeded", False)]
)
def test_a_pod_that_ended_does_not_run(phase: str, expected: bool) -> None:
    assert runs(made(phase=phase)) is expected


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("Traceback:\n  File x\nValueError: no colour", "ValueError: no colour"),
        (
            "starting\nerror: no module orders.nothing\n  Install it.\n",
            "error: no module orders.nothing Install it.",
        ),
    ],
)
def test_the_last_words_of_a_worker_are_told(log: str, said: str) -> None:
    found = pod(made(crashed(2, message=log))).trouble
    assert found
    assert found.message.endswith(f"that does not import): {said}")
