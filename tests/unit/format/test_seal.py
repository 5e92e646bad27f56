"""Derived, wrapped and sealed: against the document's formulas by hand, and against every altered bit."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cdp_container.errors import DamagedObject, KeyMissing
from cdp_container.format import seal
from cdp_container.format.seal import FrameCipher, ReaderKeys, SectionCipher
from tests.unit.format.samples import DOMAIN, PRIVATE_KEY, PUBLIC_KEY, fixed, reader, writer

SECRET, EPHEMERAL, OBJECT = fixed("secret", 32), fixed("ephemeral", 32), fixed("object", 16)
INFO = b"cdp content key v1"


def by_hand(key: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info + b"\x01", "sha256")


def test_hkdf() -> None:
    assert seal.hkdf(b"key", b"", b"info") == by_hand(b"key", b"", b"info")
    assert seal.derive_index_key(PRIVATE_KEY, DOMAIN) == by_hand(PRIVATE_KEY, DOMAIN, b"cdp index key v1")


def test_wrapped_key_by_hand() -> None:
    public_point = X25519PublicKey.from_public_bytes(PUBLIC_KEY)
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    mine = ephemeral.public_key().public_bytes_raw()
    key = by_hand(ephemeral.exchange(public_point), mine + PUBLIC_KEY, INFO)
    wrapped = seal.wrap_key(SECRET, PUBLIC_KEY, EPHEMERAL, DOMAIN, INFO)
    assert wrapped == mine + AESGCM(key).encrypt(bytes(12), SECRET, DOMAIN)
    assert seal.unwrap_key(wrapped, PRIVATE_KEY, DOMAIN, INFO, "k") == SECRET


def test_wrapped_key_opens_only_as_it_was_wrapped() -> None:
    wrapped = seal.wrap_key(SECRET, PUBLIC_KEY, EPHEMERAL, DOMAIN, INFO)
    altered = [bytes(80), wrapped[:-1], b"", bytes(32) + wrapped[32:]]
    altered += [wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in range(80)]
    for other in altered:
        with pytest.raises(DamagedObject):
            seal.unwrap_key(other, PRIVATE_KEY, DOMAIN, INFO, "k")
    for private, domain, info in (
        (fixed("other", 32), DOMAIN, INFO),
        (PRIVATE_KEY, bytes(16), INFO),
        (PRIVATE_KEY, DOMAIN, b"cdp recipient v1"),
    ):
        with pytest.raises(DamagedObject):
            seal.unwrap_key(wrapped, private, domain, info, "k")


def test_frames_by_hand_and_only_under_their_number() -> None:
    cipher = FrameCipher(SECRET, OBJECT)
    stored = cipher.seal(7, b"content")
    key = by_hand(SECRET, OBJECT, b"cdp frames v1")
    nonce = (3).to_bytes(4, "little") + (7).to_bytes(8, "little")
    assert stored == AESGCM(key).encrypt(nonce, b"content", OBJECT + (7).to_bytes(4, "little"))
    assert cipher.open(7, stored, "k") == b"content"
    for number, other in ((8, stored), (7, stored[:-1]), (7, b""), (7, b"x" + stored[1:])):
        with pytest.raises(DamagedObject):
            cipher.open(number, other, "k")
    with pytest.raises(DamagedObject):
        FrameCipher(SECRET, bytes(16)).open(7, stored, "k")


def test_sections_by_hand_and_only_under_their_preamble() -> None:
    cipher = SectionCipher(SECRET, OBJECT)
    key = by_hand(SECRET, OBJECT, b"cdp index v1")
    for section in (seal.SECTION_HEADER, seal.SECTION_INDEX):
        nonce = section.to_bytes(4, "little") + bytes(8)
        stored = cipher.seal(section, b"content", b"preamble")
        assert stored == AESGCM(key).encrypt(nonce, b"content", b"preamble")
        assert cipher.open(section, stored, b"preamble", "k") == b"content"
        with pytest.raises(DamagedObject):
            cipher.open(section, stored, b"another", "k")
        with pytest.raises(DamagedObject):
            cipher.open(3 - section, stored, b"preamble", "k")


def test_writer_keys_are_all_or_none() -> None:
    with pytest.raises(AssertionError):
        seal.WriterKeys(DOMAIN, key_block=b"{}")
    with pytest.raises(AssertionError):
        seal.WriterKeys(DOMAIN, content_key=SECRET)


def test_secrets_are_in_no_representation() -> None:
    keys = writer(encrypted=True)
    assert keys.content_key is not None
    for holder in (keys, reader(encrypted=True)):
        for secret in (keys.content_key, keys.index_key, PRIVATE_KEY):
            assert repr(secret) not in repr(holder)


def test_content_key_needs_the_private_key() -> None:
    keys = writer(encrypted=True)
    assert seal.content_key_of(keys.wrapped_content_key, reader(True), DOMAIN, "k") == keys.content_key
    with pytest.raises(KeyMissing):
        seal.content_key_of(keys.wrapped_content_key, ReaderKeys(keys.index_key), DOMAIN, "k")
