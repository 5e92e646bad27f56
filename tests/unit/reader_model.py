"""What tests of the independent reader share: a disk as plain bytes, beside the writer that protects it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.reader import Container
from tests.tiny_writer import DISCARD, GRAIN, NOWHERE, ZERO, Extent, Place, TinyWriter

SIZE, SIZE_SMALL = 192 * 1024, 1024
DISK, OTHER = b"disk-disk-disk-1", b"other-other-othr"
SEALED = [None, "correct horse"]


def container(writer: TinyWriter, passphrase: str | None = None) -> Container:
    return Container(writer.store.__getitem__, lambda: list(writer.store), passphrase or writer.passphrase)


def restored(writer: TinyWriter, path: Path, place: Place | None = None, name: str = "disk") -> bytes:
    """What the reader restores, at the newest cut where none is given."""
    reader = container(writer)
    target = path / "image"
    with target.open("w+b") as file:
        reader.restore(name, file, reader.cut(*place[:2]) if place else reader.newest_cut())
    return target.read_bytes()


def exists(space: bytes, name: str, size_bytes: int = SIZE) -> tuple[str, bytes, dict[str, object]]:
    value = {"kind": "volume", "name": name, "size_bytes": size_bytes, "block_bytes": 512}
    return ("space+", space, value)


@dataclass
class Model:
    """A disk as plain bytes, beside the writer that protects it; remembers its image at every cut."""

    writer: TinyWriter
    rng: random.Random
    image: bytearray = field(default_factory=lambda: bytearray(SIZE))
    images: dict[Place, bytes] = field(default_factory=dict)

    def change(self, count: int = 8) -> list[Extent]:
        """Some changes that do not overlap, each applied to the image."""
        grains = len(self.image) // GRAIN
        edges = sorted(self.rng.sample(range(grains), min(count, grains // 2) * 2))
        extents = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            offset, length = start * GRAIN, min((end - start) * GRAIN, 65536)
            kind = self.rng.choice([1, 1, 1, ZERO, DISCARD])
            data = self.rng.randbytes(length) if kind == 1 else b""
            extents.append(Extent(DISK, offset, data, kind, length))
            self.image[offset : offset + length] = data or bytes(length)
        return extents

    def cut(self, number: int, parts: int = 1, *, first: bool = False) -> Place:
        """Write a cut of so many segments."""
        extents = self.change()
        place = NOWHERE
        for part in range(parts):
            records = [exists(DISK, "disk")] if first and part == 0 else []
            place = self.writer.write(number, extents[part::parts], records, complete=part == parts - 1)
        self.images[place] = bytes(self.image)
        return place


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def rehashed(change: Callable[[bytearray], None]) -> Callable[[bytes], bytes]:
    """A change to the fixed part of a preamble that keeps all digests right."""

    def apply(data: bytes) -> bytes:
        new, end = bytearray(data), int.from_bytes(data[12:16], "little")
        change(new)
        new[end - 32 : end] = hashlib.sha256(new[: end - 32]).digest()
        return bytes(new[:-32]) + hashlib.sha256(new[:-32]).digest()

    return apply


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    return lambda data: data.__setitem__(slice(at, at + len(value)), value)


def written(writer: TinyWriter, root: Path) -> Path:
    """The container as a directory."""
    for key, data in writer.store.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root
