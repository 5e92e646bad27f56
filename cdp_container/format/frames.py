"""Frames: raw bytes to stored bytes and back, each on its own.

Grouping extents into frames is the builders' work.
"""

from __future__ import annotations

from dataclasses import dataclass

from isal.isal_zlib import crc32

from cdp_container.errors import DamagedObject
from cdp_container.format.codec import Compressor, decompress
from cdp_container.format.head import Head
from cdp_container.format.layout import FRAME_ROW, NONE_U32, Cipher, Codec
from cdp_container.format.limits import FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX
from cdp_container.format.seal import FrameCipher, ReaderKeys, content_key_of


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame as it is written: its bytes, and what its row says of them."""

    stored: bytes
    raw_length: int
    crc32: int
    codec: Codec

    def row(self, offset: int, seal: int = NONE_U32) -> bytes:
        """The packed frame row, for a frame `offset` bytes into the frames; `seal` is its seal row."""
        return FRAME_ROW.struct.pack(
            offset, len(self.stored), self.raw_length, self.crc32, seal, self.codec, bytes(3)
        )


def store_frame(number: int, raw: bytes, compressor: Compressor, cipher: FrameCipher | None) -> StoredFrame:
    """Compress and seal one frame; `cipher` None where the domain is not encrypted."""
    assert 0 < len(raw) <= FRAME_RAW_BYTES_MAX, len(raw)
    codec, packed = compressor.compress(raw)
    stored = packed if cipher is None else cipher.seal(number, packed)
    assert len(stored) <= FRAME_STORED_BYTES_MAX, len(stored)
    return StoredFrame(stored, len(raw), crc32(stored), codec)


class FrameReader:
    """Opens the frames of one object, whose keys it derives once. Not for several threads at once."""

    __slots__ = ("_head", "_keys", "_own", "_unwrapped")

    def __init__(self, head: Head, keys: ReaderKeys) -> None:
        self._head = head
        self._keys = keys
        self._own: FrameCipher | None = None
        self._unwrapped: dict[int, bytes] = {}

    def open(self, number: int, stored: bytes | memoryview) -> bytes:
        """The raw bytes of frame `number` from its stored ones.

        Raises:
            DamagedObject: they are not what was written (length, CRC-32, seal, compression).
            KeyMissing: it is sealed and we hold no private key.
        """
        what = f"{self._head.key}, frame {number}"
        frame = self._head.index.frame(number)
        if len(stored) != frame.stored_length:
            raise DamagedObject(what, f"{len(stored)} bytes instead of {frame.stored_length}")
        if crc32(stored) != frame.crc32:
            raise DamagedObject(what, "its CRC-32 is wrong")
        packed = bytes(stored)
        if frame.seal is not None:
            packed = self._open_copied(frame.seal, packed, what)
        elif self._head.preamble.cipher is not Cipher.NONE:
            packed = self._own_cipher(what).open(number, packed, what)
        return decompress(frame.codec, packed, frame.raw_length, what)

    def _own_cipher(self, what: str) -> FrameCipher:
        if self._own is None:
            preamble = self._head.preamble
            content_key = content_key_of(preamble.wrapped_content_key, self._keys, preamble.domain, what)
            self._own = FrameCipher(content_key, preamble.object_id)
        return self._own

    def _open_copied(self, seal_row: int, packed: bytes, what: str) -> bytes:
        """A frame of a pack that is still sealed as the object that first carried it."""
        origin = self._head.index.seal(seal_row)
        if origin.key is None:
            return packed
        if origin.key not in self._unwrapped:  # at most the keys of one pack
            wrapped = self._head.index.wrapped_key(origin.key)
            domain = self._head.preamble.domain
            self._unwrapped[origin.key] = content_key_of(wrapped, self._keys, domain, what)
        cipher = FrameCipher(self._unwrapped[origin.key], origin.object_id)
        return cipher.open(origin.frame, packed, what)


def open_frame(head: Head, number: int, stored: bytes | memoryview, keys: ReaderKeys) -> bytes:
    """`FrameReader.open` for those who open one frame of an object."""
    return FrameReader(head, keys).open(number, stored)
