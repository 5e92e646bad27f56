"""An empty qcow2 image without a backing name: where QEMU keeps what guests overwrite for a moment. PURE.

Made by us, as a file that has no name cannot be formatted by a program that wants one. Layout: QEMU's
docs/interop/qcow2.txt, version 3; the first clusters are the header, the table of refcounts, one block of
refcounts, and the L1 table.
"""

from __future__ import annotations

import struct
from typing import Final

CLUSTER_BITS: Final = 16
CLUSTER_BYTES: Final = 1 << CLUSTER_BITS
REFCOUNT_ORDER: Final = 4
"""16 bits each."""
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_HEADER_BYTES: Final = 104
_L2_ENTRIES: Final = CLUSTER_BYTES // 8


def empty_image(size_bytes: int) -> bytes:
    """The bytes of an image that reads as its backing node does, all of it."""
    l1_entries = max(1, -(-size_bytes // (CLUSTER_BYTES * _L2_ENTRIES)))
    l1_clusters = -(-l1_entries * 8 // CLUSTER_BYTES)
    used = 3 + l1_clusters
    header = _HEADER.pack(
        b"QFI\xfb", 3, 0, 0, CLUSTER_BITS, size_bytes, 0, l1_entries, 3 * CLUSTER_BYTES, CLUSTER_BYTES, 1,
        0, 0, 0, 0, 0, REFCOUNT_ORDER, _HEADER_BYTES,
    )  # fmt: skip
    table = struct.pack(">Q", 2 * CLUSTER_BYTES)
    counts = struct.pack(">H", 1) * used
    return b"".join(
        (_padded(header), _padded(table), _padded(counts), bytes(l1_clusters * CLUSTER_BYTES)),
    )


def _padded(data: bytes) -> bytes:
    assert len(data) <= CLUSTER_BYTES, len(data)
    return data + bytes(CLUSTER_BYTES - len(data))
