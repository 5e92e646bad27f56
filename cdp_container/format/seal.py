"""Sealing (docs/container-format.md, section 5): derived keys, wrapped keys, sealed sections and frames.

Every random value is an argument. What does not belong here: the key block and its passphrases (keyblock),
and which bytes are sealed (segment, pack and their kin).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cdp_container.errors import DamagedObject, KeyMissing
from cdp_container.format.layout import WRAPPED_KEY_BYTES, Cipher

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16

INDEX_KEY_INFO: Final = b"cdp index key v1"
CONTENT_KEY_INFO: Final = b"cdp content key v1"
FRAMES_INFO: Final = b"cdp frames v1"
INDEX_INFO: Final = b"cdp index v1"

SECTION_HEADER: Final = 1
SECTION_INDEX: Final = 2
SECTION_FRAMES: Final = 3

_NONCE: Final = struct.Struct("<IQ")
_FRAME_ASSOCIATED: Final = struct.Struct("<16sI")
_WRAP_NONCE: Final = bytes(12)
_NO_WRAPPED_KEY: Final = bytes(WRAPPED_KEY_BYTES)


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with 32 bytes of output."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def public_of(private_key: bytes) -> bytes:
    """The X25519 public key of a private key; 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def derive_index_key(private_key: bytes, domain: bytes) -> bytes:
    """The key of a domain's headers and indexes: all that an agent is given of the private key."""
    return hkdf(private_key, domain, INDEX_KEY_INFO)


def wrap_key(secret: bytes, public_key: bytes, ephemeral_private: bytes, domain: bytes, info: bytes) -> bytes:
    """Seal 32 secret bytes to a public key: 80 bytes. `ephemeral_private` must be fresh for every call."""
    assert len(secret) == KEY_BYTES, len(secret)
    return seal_to(secret, public_key, ephemeral_private, domain, info)


def seal_to(secret: bytes, public_key: bytes, ephemeral_private: bytes, domain: bytes, info: bytes) -> bytes:
    """The same of a secret of any length: 48 bytes more than it has."""
    ephemeral_public = public_of(ephemeral_private)
    shared = _exchange(ephemeral_private, public_key)
    key = hkdf(shared, ephemeral_public + public_key, info)
    return ephemeral_public + AESGCM(key).encrypt(_WRAP_NONCE, secret, domain)


def unwrap_key(wrapped: bytes, private_key: bytes, domain: bytes, info: bytes, what: str) -> bytes:
    """Open what `wrap_key` sealed.

    Raises:
        DamagedObject: it was not sealed to this key for this domain, or was altered.
    """
    if len(wrapped) != WRAPPED_KEY_BYTES:
        raise DamagedObject(what, f"a wrapped key has {len(wrapped)} bytes instead of {WRAPPED_KEY_BYTES}")
    return open_sealed(wrapped, private_key, domain, info, what, "a wrapped key")


def open_sealed(
    wrapped: bytes, private_key: bytes, domain: bytes, info: bytes, what: str, called: str
) -> bytes:
    """Open what `seal_to` sealed; `called` is what errors call it. Raises as `unwrap_key`."""
    ephemeral_public, sealed = wrapped[:KEY_BYTES], wrapped[KEY_BYTES:]
    try:
        shared = _exchange(private_key, ephemeral_public)
        key = hkdf(shared, ephemeral_public + public_of(private_key), info)
        return AESGCM(key).decrypt(_WRAP_NONCE, sealed, domain)
    except (ValueError, InvalidTag) as error:
        raise DamagedObject(what, f"{called} does not open with the domain's key") from error


def _exchange(private_key: bytes, public_key: bytes) -> bytes:
    """X25519; ValueError where the public key is a point that proves nothing."""
    theirs = X25519PublicKey.from_public_bytes(public_key)
    return X25519PrivateKey.from_private_bytes(private_key).exchange(theirs)


@dataclass(frozen=True, slots=True)
class WriterKeys:
    """All that a writer needs to seal, and nothing that would let it read old frames.

    With `content_key` None the domain is not encrypted. `key_block` stands in clear in every preamble.
    """

    domain: bytes
    key_block: bytes = b""
    wrapped_content_key: bytes = _NO_WRAPPED_KEY
    content_key: bytes | None = field(default=None, repr=False)
    index_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert len(self.domain) == 16, len(self.domain)
        assert len(self.wrapped_content_key) == WRAPPED_KEY_BYTES, len(self.wrapped_content_key)
        secrets = (self.content_key, self.index_key)
        assert all(secrets) == any(secrets) == bool(self.key_block), "all keys or none"

    @property
    def cipher(self) -> Cipher:
        """What the preamble says of objects sealed with these keys."""
        return Cipher.NONE if self.content_key is None else Cipher.AES_256_GCM

    def reader(self) -> ReaderKeys:
        """What this writer can read back: headers and indexes."""
        return ReaderKeys(index_key=self.index_key)


@dataclass(frozen=True, slots=True)
class ReaderKeys:
    """What a reader holds: nothing, the index key alone (an agent), or the domain's private key too."""

    index_key: bytes | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of_private_key(cls, private_key: bytes, domain: bytes) -> ReaderKeys:
        """The keys of somebody who opened the domain's key block."""
        return cls(derive_index_key(private_key, domain), private_key)


NO_KEYS: Final = ReaderKeys()


def writer_keys(
    domain: bytes,
    public_key: bytes,
    key_block: bytes,
    index_key: bytes,
    content_key: bytes,
    ephemeral_private: bytes,
) -> WriterKeys:
    """Keys of one epoch or pack: a fresh random content key, wrapped to the public key that we pin."""
    wrapped = wrap_key(content_key, public_key, ephemeral_private, domain, CONTENT_KEY_INFO)
    return WriterKeys(domain, key_block, wrapped, content_key, index_key)


class FrameCipher:
    """Seals and opens the frames of one object under its content key."""

    __slots__ = ("_gcm", "_object_id")

    def __init__(self, content_key: bytes, object_id: bytes) -> None:
        self._object_id = object_id
        self._gcm = AESGCM(hkdf(content_key, object_id, FRAMES_INFO))

    def seal(self, number: int, packed: bytes) -> bytes:
        """The stored bytes of frame `number`."""
        return self._gcm.encrypt(_NONCE.pack(SECTION_FRAMES, number), packed, self._associated(number))

    def open(self, number: int, stored: bytes, what: str) -> bytes:
        """The compressed bytes of frame `number`; DamagedObject if any bit is not what was sealed."""
        nonce = _NONCE.pack(SECTION_FRAMES, number)
        return _open(self._gcm, nonce, stored, self._associated(number), what)

    def _associated(self, number: int) -> bytes:
        return _FRAME_ASSOCIATED.pack(self._object_id, number)


class SectionCipher:
    """Seals and opens the header and the index of one object under the domain's index key."""

    __slots__ = ("_gcm",)

    def __init__(self, index_key: bytes, object_id: bytes) -> None:
        self._gcm = AESGCM(hkdf(index_key, object_id, INDEX_INFO))

    def seal(self, section: int, packed: bytes, preamble: bytes) -> bytes:
        """The stored bytes of a section."""
        return self._gcm.encrypt(_NONCE.pack(section, 0), packed, preamble)

    def open(self, section: int, stored: bytes, preamble: bytes, what: str) -> bytes:
        """The compressed bytes of a section; DamagedObject if any bit is not what was sealed."""
        return _open(self._gcm, _NONCE.pack(section, 0), stored, preamble, what)


def content_key_of(wrapped: bytes, keys: ReaderKeys, domain: bytes, what: str) -> bytes:
    """The content key of an epoch or pack; KeyMissing without the private key."""
    if keys.private_key is None:
        raise KeyMissing(what, "its frames are sealed, and only the domain's private key opens them")
    return unwrap_key(wrapped, keys.private_key, domain, CONTENT_KEY_INFO, what)


def _open(gcm: AESGCM, nonce: bytes, stored: bytes, associated: bytes, what: str) -> bytes:
    if len(stored) < TAG_BYTES:
        raise DamagedObject(what, "sealed bytes are shorter than their seal")
    try:
        return gcm.decrypt(nonce, stored, associated)
    except InvalidTag as error:
        raise DamagedObject(
            what, "a seal is broken: the bytes or the key are not those of the writer"
        ) from error
