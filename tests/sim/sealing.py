"""A watch over every seal of a simulation: no (key, nonce) pair may ever seal twice."""

from __future__ import annotations

from typing import ClassVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class SealedTwice(AssertionError):
    """A (key, nonce) pair was used for a second plaintext."""


class CountingGCM:
    """AES-GCM that remembers every pair that it sealed with."""

    used: ClassVar[set[tuple[bytes, bytes]]] = set()

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._gcm = AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        pair = (self._key, nonce)
        if pair in self.used:
            raise SealedTwice(f"nonce {nonce.hex()} was used twice under one key")
        self.used.add(pair)
        return self._gcm.encrypt(nonce, data, associated)

    def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        return self._gcm.decrypt(nonce, data, associated)
