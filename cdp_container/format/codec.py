"""Compression of sections and frames, bounded on the way back.

Which codec a thing has stands in its row or preamble, not here.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import zstandard

from cdp_container.errors import DamagedObject, NewerFormat
from cdp_container.format.layout import Codec

ZSTD_LEVEL: Final = 1
"""A writer's choice: what keeps up with a disk on one core."""

_IDLE: Final[deque[zstandard.ZstdDecompressor]] = deque(maxlen=8)
"""Contexts that nobody uses: to make one takes 36 us, to decompress a section 2. They remember nothing of
what they did, and a deque hands each to one thread alone."""


class Compressor:
    """Compresses one thing after another with one zstd context; not for several threads at once."""

    __slots__ = ("_zstd", "codec")

    def __init__(self, codec: Codec = Codec.ZSTD, level: int = ZSTD_LEVEL) -> None:
        self.codec = codec
        self._zstd = None if codec is Codec.NONE else zstandard.ZstdCompressor(level=level)

    def pack(self, raw: bytes) -> bytes:
        """`raw` in this compressor's codec, even where that is longer."""
        return raw if self._zstd is None else self._zstd.compress(raw)

    def compress(self, raw: bytes) -> tuple[Codec, bytes]:
        """The shorter of `raw` compressed and `raw` as it is."""
        packed = self.pack(raw)
        return (self.codec, packed) if len(packed) < len(raw) else (Codec.NONE, raw)


def decompress(codec: int, packed: bytes, raw_bytes: int, what: str) -> bytes:
    """The raw bytes, exactly `raw_bytes` of them; memory is bounded by that whatever `packed` claims.

    Raises:
        DamagedObject: it is not one zstd frame that states that length and has it.
        NewerFormat: the codec is unknown.
    """
    if codec == Codec.NONE:
        if len(packed) != raw_bytes:
            raise DamagedObject(what, f"{len(packed)} bytes stand where {raw_bytes} were announced")
        return packed
    if codec != Codec.ZSTD:
        raise NewerFormat(what, f"codec {codec} is unknown")
    try:
        # The library allocates what the frame claims, so the claim is checked before.
        claimed = zstandard.get_frame_parameters(packed).content_size
        if claimed != raw_bytes:
            raise DamagedObject(what, f"a zstd frame claims {claimed} bytes where {raw_bytes} were announced")
        raw = _decompress(packed, raw_bytes)
    except zstandard.ZstdError as error:
        raise DamagedObject(what, f"cannot be decompressed: {error}") from error
    if len(raw) != raw_bytes:
        raise DamagedObject(what, f"{len(raw)} bytes came out where {raw_bytes} were announced")
    return raw


def _decompress(packed: bytes, raw_bytes: int) -> bytes:
    """Raises ZstdError; the context is not used again then."""
    try:
        context = _IDLE.pop()
    except IndexError:
        context = zstandard.ZstdDecompressor()
    raw = context.decompress(
        packed, max_output_size=raw_bytes, read_across_frames=False, allow_extra_data=False
    )
    _IDLE.append(context)
    return raw
