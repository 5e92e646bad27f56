"""Small limits, so that small worlds meet them; and a watch over every (key, nonce) pair that seals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdp_agent.streamer import build, coalesce, steps
from cdp_container.format import limits, seal


class CountingGCM:
    """AES-GCM that remembers every pair that it sealed with."""

    used: ClassVar[set[tuple[bytes, bytes]]] = set()

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._gcm = AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        pair = (self._key, nonce)
        assert pair not in self.used, "a (key, nonce) pair was used twice"
        self.used.add(pair)
        return self._gcm.encrypt(nonce, data, associated)

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        return self._gcm.decrypt(nonce, data, associated)


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits, "OBJECT_BYTES_TARGET", 6_000)
    monkeypatch.setattr(build, "take_batch", lambda records: coalesce.take_batch(records, 24, 60_000))
    monkeypatch.setattr(steps, "CATALOG_SEGMENTS", (4, 16))
    monkeypatch.setattr(steps, "PUTS_MAX", 4)
    monkeypatch.setattr(steps, "WINDOW_BYTES_MAX", 40_000)
    monkeypatch.setattr(seal, "AESGCM", CountingGCM)
    CountingGCM.used.clear()
    yield
    CountingGCM.used.clear()
