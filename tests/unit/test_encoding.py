"""What a codec makes of payloads, and how a body says so."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from everstep import App, PayloadError, PayloadPlace, UsageError
from everstep.encoding import PLAIN, Encoding
from everstep.store.models import Checkpoint, CheckpointKind, Start

PLACE = PayloadPlace("w", "step", branch="", seq=3)


@dataclass
class Backwards:
    id: int = 100

    def encode(self, body: bytes, place: PayloadPlace) -> bytes:
        return bytes(place) + body[::-1]

    def decode(self, body: bytes, place: PayloadPlace) -> bytes:
        if not body.startswith(bytes(place)):
            raise ValueError("of another place")
        return body[len(bytes(place)) :][::-1]


def test_a_body_says_which_codec_made_it():
    encoding = Encoding(Backwards())
    stored = encoding.encode(b"[1,2]", PLACE)
    assert stored[:2] == bytes([0, 100])
    assert encoding.decode(stored, PLACE) == b"[1,2]"
    assert encoding.decode(b"[1,2]", PLACE) == b"[1,2]"


def test_without_a_codec_a_body_is_the_very_same():
    body = b"[1,2]"
    row = Checkpoint("", 1, CheckpointKind.STEP, "s", 1, 1, body, None)
    start = Start("w", "f", "q", 1, body)
    assert PLAIN.encode(body, PLACE) is body
    assert PLAIN.decode(body, PLACE) is body
    assert PLAIN.row("w", row) is row
    assert PLAIN.opened("w", row) is row
    assert PLAIN.start(start) is start
    assert PLAIN.ending("w", body, None)[0] is body


@pytest.mark.parametrize(
    ("reader", "told"),
    [
        (PLAIN, "none is configured here"),
        (Encoding(Backwards(101)), "encoded with codec 100, and 101 is configured"),
    ],
)
def test_a_body_of_another_codec_names_it(reader, told):
    stored = Encoding(Backwards()).encode(b"1", PLACE)
    with pytest.raises(PayloadError, match=told) as refused:
        reader.decode(stored, PLACE)
    assert str(refused.value).startswith("step :3 of workflow 'w'")


def test_a_body_of_another_place_is_refused():
    encoding = Encoding(Backwards())
    stored = encoding.encode(b"1", PLACE)
    with pytest.raises(PayloadError, match=r"ValueError: of another place\. It was made with"):
        encoding.decode(stored, PayloadPlace("w", "step", branch="", seq=4))


def test_places_are_told_apart():
    places = [
        PayloadPlace("w", "step", seq=1),
        PayloadPlace("w", "step", branch="1", seq=1),
        PayloadPlace("w", "step", branch="1", seq=11),
        PayloadPlace("w", "input"),
        PayloadPlace('w","input', ""),
        PayloadPlace("w", "message", "a"),
        PayloadPlace("w", "event", "a"),
        PayloadPlace("wm", "essage", "a"),
    ]
    assert len({bytes(place) for place in places}) == len(places)


@pytest.mark.parametrize(
    "codec", [Backwards(99), Backwards(256), Backwards("100"), object(), print]
)
def test_what_is_no_codec_is_refused(codec):
    with pytest.raises(UsageError, match="codec"):
        App("test", codec=codec)
