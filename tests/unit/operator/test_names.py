"""Names and versions: stable, distinct, and short enough for Kubernetes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep_operator import names

LABEL = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
DNS = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")

TAGS = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z", fullmatch=True)
APPS = st.from_regex(r"\A[a-z]([-a-z0-9]{0,38}[a-z0-9])?\Z", fullmatch=True)


@pytest.mark.parametrize(
    ("explicit", "image", "expected"),
    [
        ("2026.10.1", "orders:v2", "2026.10.1"),
        (None, "localhost/orders:v2", "v2"),
        (None, "host:5000/team/orders:v2", "v2"),
        (None, "orders:v2@sha256:0123456789abcdef", "v2"),
        (None, "orders@sha256:0123456789abcdef", "sha-0123456789ab"),
        (None, "orders:latest@sha256:0123456789abcdef", "sha-0123456789ab"),
    ],
)
def test_the_version_is_what_the_image_says(
    explicit: str | None, image: str, expected: str
) -> None:
    assert names.version_of(explicit, {"image": image}) == expected


@pytest.mark.parametrize("image", ["orders", "orders:latest", "host:5000/orders"])
def test_an_image_that_says_nothing_gives_a_stable_hash(image: str) -> None:
    worker = {"image": image, "args": ["worker", "a:b"]}
    version = names.version_of(None, worker)
    assert re.fullmatch("hash-[0-9a-f]{10}", version)
    assert version == names.version_of(None, {**worker, "resources": {}, "env": []})
    assert version != names.version_of(None, {**worker, "args": ["worker", "a:c"]})


def test_the_hash_is_ours_and_does_not_move_between_releases() -> None:
    assert names.fingerprint({"b": [1, "é"], "a": None}) == "a44633ba03"


@given(APPS, TAGS)
def test_every_tag_makes_valid_names(app: str, tag: str) -> None:
    version = names.version_of(None, {"image": f"orders:{tag}"})
    assert LABEL.match(names.version_label(version))
    assert DNS.match(names.deployment(app, version))
    assert DNS.match(names.migration_job(app, f"orders:{tag}", ["migrate"], "everstep"))
    assert len(names.deployment(app, version)) <= 54


@given(APPS, TAGS, TAGS)
def test_different_versions_never_share_a_deployment(app: str, one: str, other: str) -> None:
    if one != other:
        assert names.deployment(app, one) != names.deployment(app, other)


@pytest.mark.parametrize("tag", ["___", "-", "_a", "a" * 128, "a" * 51 + "." * 20])
def test_every_tag_becomes_a_version_that_may_be_a_label(tag: str) -> None:
    made = names.version_of(None, {"image": f"localhost/orders:{tag}"})
    assert re.fullmatch(names.VERSION_PATTERN, made)
