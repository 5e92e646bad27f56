"""From facts, header, index and frames to the bytes of an object: the one writer of its shape.

What the parts hold is decided by the builders of each kind (segment, pack, catalog, ledger).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdp_container.errors import LimitExceeded
from cdp_container.format import limits, seal
from cdp_container.format.codec import Compressor
from cdp_container.format.head import open_sections
from cdp_container.format.index import parse_index
from cdp_container.format.jsontext import JsonObject, dump_object
from cdp_container.format.layout import Cipher, Codec
from cdp_container.format.preamble import (
    Preamble,
    check_key,
    index_bytes_max,
    object_bytes_max,
    pack_preamble,
)
from cdp_container.format.seal import SectionCipher, WriterKeys


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object that is ready to be put: its key, its bytes, its digest, and how much of it is the head."""

    key: str
    data: bytes
    digest: bytes
    head_length: int

    @property
    def head(self) -> bytes:
        """What a catalog keeps of it."""
        return self.data[: self.head_length]


def assemble(
    key: str,
    facts: Preamble,
    header: JsonObject,
    index_raw: bytes,
    frames: Sequence[bytes],
    keys: WriterKeys,
    compressor: Compressor,
) -> SealedObject:
    """The object of these parts; `facts` is a preamble without lengths, codec and keys, which are filled in.

    Raises:
        LimitExceeded: the header, the index or the object is longer than a reader takes.
    """
    header_raw = dump_object(header)
    frames_stored = sum(map(len, frames))
    _check_sizes(key, facts, len(header_raw), len(index_raw), frames_stored)
    codec, header_packed, index_packed = _compress(header_raw, index_raw, compressor)
    sealed_more = 0 if keys.index_key is None else seal.TAG_BYTES
    preamble = replace(
        facts,
        header_stored=len(header_packed) + sealed_more,
        header_raw=len(header_raw),
        index_stored=len(index_packed) + sealed_more,
        index_raw=len(index_raw),
        frames_stored=frames_stored,
        section_codec=codec,
        cipher=keys.cipher,
        key_block=keys.key_block,
        wrapped_content_key=keys.wrapped_content_key,
    )
    if preamble.object_length > object_bytes_max(preamble.kind):
        raise LimitExceeded(key, f"it would have {preamble.object_length} bytes")
    first = pack_preamble(preamble)
    if keys.index_key is not None:
        cipher = SectionCipher(keys.index_key, preamble.object_id)
        header_packed = cipher.seal(seal.SECTION_HEADER, header_packed, first)
        index_packed = cipher.seal(seal.SECTION_INDEX, index_packed, first)
    data = _join(first, header_packed, index_packed, frames)
    del header_packed, index_packed  # a wide catalog has 20 MiB of them
    built = SealedObject(key, data, data[-32:], preamble.head_length)
    _check_pair(built, preamble, header_raw, index_raw, keys)
    return built


def _compress(header: bytes, index: bytes, compressor: Compressor) -> tuple[Codec, bytes, bytes]:
    """Both sections in one codec, as the preamble names only one: the one that makes their sum shorter."""
    header_packed, index_packed = compressor.pack(header), compressor.pack(index)
    if len(header_packed) + len(index_packed) < len(header) + len(index):
        return compressor.codec, header_packed, index_packed
    return Codec.NONE, header, index


def _check_sizes(key: str, facts: Preamble, header: int, index: int, frames: int) -> None:
    if header > limits.HEADER_BYTES_MAX:
        raise LimitExceeded(key, f"its header would have {header} bytes (HEADER_BYTES_MAX)")
    if index > index_bytes_max(facts.kind):
        raise LimitExceeded(
            key, f"its index would have {index} bytes ({index_bytes_max(facts.kind)} at most)"
        )
    if frames > object_bytes_max(facts.kind):
        raise LimitExceeded(key, f"its frames would have {frames} bytes")


def _join(preamble: bytes, header: bytes, index: bytes, frames: Sequence[bytes]) -> bytes:
    parts = [
        preamble,
        header,
        hashlib.sha256(header).digest(),
        index,
        hashlib.sha256(index).digest(),
        *frames,
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join((*parts, digest.digest()))


def _check_pair(
    built: SealedObject, preamble: Preamble, header_raw: bytes, index_raw: bytes, keys: WriterKeys
) -> None:
    """Decode what was encoded: nothing leaves here that a reader would refuse."""
    assert len(built.data) == preamble.object_length, "an object must have the length that its preamble gives"
    check_key(preamble, built.key, keys.domain)
    again = open_sections(built.data, preamble, built.key, keys.reader())
    assert again == (header_raw, index_raw), "a head must open to what was put into it"
    sealed = preamble.cipher is not Cipher.NONE
    parse_index(index_raw, preamble.kind, preamble.frames_stored, built.key, sealed=sealed)
