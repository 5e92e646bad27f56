"""Reading an object from its bytes: the head alone, or the whole object without any key.

What comes out is checked: digests, seals, lengths, every row. Fetching the bytes does not belong here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cdp_container.errors import DamagedObject, KeyMissing
from cdp_container.format import limits, seal
from cdp_container.format.codec import decompress
from cdp_container.format.index import Index, parse_index
from cdp_container.format.jsontext import JsonObject, load_object
from cdp_container.format.layout import DIGEST_BYTES, Cipher
from cdp_container.format.preamble import (
    PREFIX_BYTES,
    Preamble,
    check_key,
    parse_preamble,
    preamble_need,
)
from cdp_container.format.seal import ReaderKeys, SectionCipher


@dataclass(frozen=True, slots=True)
class Head:
    """Everything of an object but its frames; `key` is where it stands in the container."""

    key: str
    preamble: Preamble
    header: JsonObject
    index: Index

    def frame_range(self, number: int) -> tuple[int, int]:
        """Where the stored bytes of a frame lie in the object: (start, end)."""
        frame = self.index.frame(number)
        start = self.preamble.head_length + frame.offset
        return start, start + frame.stored_length


def head_need(data: bytes, key: str) -> int:
    """How many bytes from its start a reader of an object needs; at most `len(data)` once the head is there.

    Ask for `PREFIX_BYTES` or (better) some KiB first, then for what this says, until it is satisfied.
    """
    if len(data) < PREFIX_BYTES:
        return PREFIX_BYTES
    preamble_length = preamble_need(data, key)
    if len(data) < preamble_length:
        return preamble_length
    return parse_preamble(data, key).head_length


def open_head(data: bytes, key: str, domain: bytes | None, keys: ReaderKeys) -> Head:
    """The head at the start of `data`, which may be longer, of the object under `key`.

    `domain` is the domain that it must belong to, or None for any.

    Raises:
        DamagedObject, NewerFormat, LimitExceeded: as the parsers of its parts say.
        ForeignObject: it belongs under another key or to another domain.
        KeyMissing: it is sealed and `keys` holds no index key.
    """
    preamble = parse_preamble(data, key)
    check_key(preamble, key, domain)
    return open_parsed(data, preamble, key, keys)


def open_parsed(data: bytes, preamble: Preamble, key: str, keys: ReaderKeys) -> Head:
    """See `open_head`, where the preamble was parsed, and was found to belong under `key`."""
    header_raw, index_raw = open_sections(data, preamble, key, keys)
    header = load_object(header_raw, limits.HEADER_BYTES_MAX, key)
    sealed = preamble.cipher is not Cipher.NONE
    index = parse_index(index_raw, preamble.kind, preamble.frames_stored, key, sealed=sealed)
    return Head(key, preamble, header, index)


def open_sections(data: bytes, preamble: Preamble, key: str, keys: ReaderKeys) -> tuple[bytes, bytes]:
    """The raw header and index of an object whose preamble was parsed; errors as in `open_head`."""
    header, index = _stored_sections(data, preamble, key)
    if preamble.cipher is Cipher.NONE and keys.index_key is not None:
        # Whoever can write to the container could otherwise put plain objects into a sealed domain.
        raise DamagedObject(key, "it is not sealed, and the objects of this domain are")
    if preamble.cipher is not Cipher.NONE:
        if keys.index_key is None:
            raise KeyMissing(key, "its index is sealed")
        associated = bytes(data[: preamble.preamble_length])
        cipher = SectionCipher(keys.index_key, preamble.object_id)
        header = cipher.open(seal.SECTION_HEADER, header, associated, key)
        index = cipher.open(seal.SECTION_INDEX, index, associated, key)
    codec = preamble.section_codec
    return (
        decompress(codec, header, preamble.header_raw, key),
        decompress(codec, index, preamble.index_raw, key),
    )


def check_object(data: bytes, key: str, domain: bytes | None) -> Preamble:
    """Check a whole object without any key: shape, every digest, and that it belongs under `key`.

    Raises:
        DamagedObject, NewerFormat, LimitExceeded, ForeignObject: as in `open_head`.
    """
    preamble = parse_preamble(data, key)
    check_parsed(data, preamble, key)
    check_key(preamble, key, domain)
    return preamble


def check_parsed(data: bytes, preamble: Preamble, key: str) -> None:
    """See `check_object`, where the preamble was parsed; whether it belongs under `key` is not asked here."""
    if len(data) != preamble.object_length:
        raise DamagedObject(key, f"it has {len(data)} bytes instead of {preamble.object_length}")
    _stored_sections(data, preamble, key)
    view = memoryview(data)
    if hashlib.sha256(view[:-DIGEST_BYTES]).digest() != view[-DIGEST_BYTES:]:
        raise DamagedObject(key, "its trailer, the SHA-256 of the whole object, is wrong")


def object_digest(data: bytes) -> bytes:
    """The digest by which other objects name this one: its trailer. Checked only by `check_object`."""
    return bytes(data[-DIGEST_BYTES:])


def _stored_sections(data: bytes, preamble: Preamble, key: str) -> tuple[bytes, bytes]:
    """The stored header and index, each agreeing with the SHA-256 that follows it."""
    if len(data) < preamble.head_length:
        raise DamagedObject(key, f"it ends within its head: {len(data)} of {preamble.head_length} bytes")
    sections = []
    at = preamble.preamble_length
    for name, length in (("header", preamble.header_stored), ("index", preamble.index_stored)):
        stored = bytes(data[at : at + length])
        at += length
        if hashlib.sha256(stored).digest() != data[at : at + DIGEST_BYTES]:
            raise DamagedObject(key, f"the SHA-256 of its {name} is wrong")
        sections.append(stored)
        at += DIGEST_BYTES
    return sections[0], sections[1]
