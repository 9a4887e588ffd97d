"""A codec for tests: AES-GCM with the place as associated data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from everstep import PayloadPlace

KEY = bytes(range(32))


@dataclass
class Sealed:
    """AES-GCM. `places`: where it was asked to encode something."""

    key: bytes = KEY
    id: int = 100
    places: list[PayloadPlace] = field(default_factory=list)

    def encode(self, body: bytes, place: PayloadPlace) -> bytes:
        self.places.append(place)
        nonce = os.urandom(12)
        return nonce + AESGCM(self.key).encrypt(nonce, body, bytes(place))

    def decode(self, body: bytes, place: PayloadPlace) -> bytes:
        return AESGCM(self.key).decrypt(body[:12], body[12:], bytes(place))
