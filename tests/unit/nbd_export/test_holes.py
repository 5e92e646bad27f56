"""What block status tells of a backing store: never a hole where something was written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from nbd_export.backend import Extent, State
from nbd_export.files import OsFiles
from nbd_export.holes import extents_of

SIZE = 8 << 20
MIB = 1 << 20


class Mute(OsFiles):
    """A file system or device that does not know its holes."""

    def next_data(self, fd: int, offset: int) -> int | None:
        return offset

    def next_hole(self, fd: int, offset: int) -> int:
        return self.size_bytes(fd)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file of holes."""
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_file_that_shrank_is_an_error_and_no_hole(fd: int) -> None:
    os.ftruncate(fd, SIZE // 2)
    with pytest.raises(OSError, match="shorter"):
        extents_of(OsFiles(), fd, 0, SIZE, 9)
    with pytest.raises(OSError, match="shorter"):
        extents_of(OsFiles(), fd, SIZE - MIB, MIB, 9)


def test_an_error_of_the_disk_is_an_error(fd: int) -> None:
    class Failing(OsFiles):
        def next_data(self, fd: int, offset: int) -> int | None:
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        extents_of(Failing(), fd, 0, SIZE, 9)


def test_where_nobody_knows_all_is_data(fd: int) -> None:
    assert extents_of(Mute(), fd, 0, SIZE, 9) == [Extent(SIZE, State.DATA)]
    assert extents_of(Mute(), fd, 5, 7, 9) == [Extent(7, State.DATA)]


def test_what_is_in_the_page_cache_alone_is_data(fd: int) -> None:
    os.pwrite(fd, b"x", 3 * MIB)
    parts = extents_of(OsFiles(), fd, 0, SIZE, 9)
    assert [part.state for part in parts] == [State.HOLE, State.DATA, State.HOLE]
    assert sum(part.length for part in parts) == SIZE
    assert parts[0].length <= 3 * MIB < parts[0].length + parts[1].length


def test_parts_are_clipped_to_the_range_and_to_their_number(fd: int) -> None:
    for at in range(0, SIZE, 2 * MIB):
        os.pwrite(fd, bytes([1]) * MIB, at)
    assert extents_of(OsFiles(), fd, MIB // 2, MIB, 9) == [
        Extent(MIB // 2, State.DATA),
        Extent(MIB // 2, State.HOLE),
    ]
    assert extents_of(OsFiles(), fd, 0, SIZE, 3) == [
        Extent(MIB, State.DATA),
        Extent(MIB, State.HOLE),
        Extent(MIB, State.DATA),
    ]
    assert extents_of(OsFiles(), fd, MIB + 1, SIZE - MIB - 1, 1) == [Extent(MIB - 1, State.HOLE)]


def test_what_was_punched_is_a_hole_again(fd: int) -> None:
    os.pwrite(fd, bytes([1]) * SIZE, 0)
    OsFiles().zero(fd, MIB, MIB, may_trim=True)
    assert extents_of(OsFiles(), fd, 0, 3 * MIB, 9) == [
        Extent(MIB, State.DATA),
        Extent(MIB, State.HOLE),
        Extent(MIB, State.DATA),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_hole_reads_as_zeros(fd: int, seed: int) -> None:
    rng = Random(seed)
    for _ in range(40):
        length = rng.choice([1, 512, 4096, 65536, MIB])
        at = rng.randrange(SIZE - length)
        if rng.random() < 0.6:
            os.pwrite(fd, rng.randbytes(length), at)
        else:
            OsFiles().zero(fd, at, length, may_trim=rng.random() < 0.5)
        start = rng.randrange(SIZE)
        for part in extents_of(OsFiles(), fd, start, SIZE - start, 1024):
            if part.state is State.HOLE:
                assert os.pread(fd, part.length, start) == bytes(part.length)
            start += part.length
        assert start == SIZE
