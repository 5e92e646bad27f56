"""Making the index anew from what the container has at a cut: names as told, sums as heads have them.

No inode is known then, so the first scan finds every name to be different, and reads every file once; what
compares as equal is not sent. What heads have no sums of (the part of a block at a file's end) is sent again.
Reading the container does not belong here (image.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Protocol

from cdp_agent.watcher.index import TYPE_NUMBERS, Index
from cdp_container.format.names import parse_name

DIGEST_BYTES: Final = 16


class Image(Protocol):
    """The trees of a container at one cut. Its methods raise CdpError of their own."""

    def trees(self) -> Iterable[tuple[bytes, str]]:
        """Ids and names."""
        ...

    def names(self, tree: bytes) -> Iterable[tuple[bytes, bytes]]:
        """Every name of a tree: its path, and the value of its record."""
        ...

    def sums(self, space: bytes, size: int) -> Iterable[tuple[int, bytes]]:
        """The chunks of a space that are not all zeros: number, and sums as the index has them."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


def digest_of(value: bytes) -> bytes:
    """What the index remembers of a name's record."""
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES).digest()


def make_anew(index: Index, image: Image) -> None:
    """Fill an empty index, within a transaction of the caller's. Raises what the image raises."""
    try:
        for tree, told in image.trees():
            number = index.add_tree(tree, told)
            files: dict[bytes, int] = {}
            for path, value in image.names(tree):
                _add(index, image, number, path, value, files)
    finally:
        image.close()


def _add(index: Index, image: Image, tree: int, path: bytes, value: bytes, files: dict[bytes, int]) -> None:
    said = parse_name(value, "a name of the base cut")
    file = None
    if said.space is not None:
        file = files.get(said.space)
        if file is None:
            file = files[said.space] = index.add_file(tree, None, said.space, said.size_bytes).id
            for chunk, sums in image.sums(said.space, said.size_bytes):
                index.put_sums(file, chunk, sums)
    index.put_name(tree, path, None, TYPE_NUMBERS[said.type], file, b"", digest_of(value))
