"""What an image says and reads of what is here, at once."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd_export.backend import Extent, State
from rehydrate.serve.image import Image
from rehydrate.serve.map_file import BLOCK_BYTES
from tests.unit.rehydrate.serve.test_image import MIB, SIZE, Bench, Point, benched, run


@pytest.fixture
def point() -> Point:
    return Point()


@pytest.fixture
def bench(tmp_path: Path, point: Point) -> Iterator[Bench]:
    with benched(tmp_path, point) as made:
        yield made


def read_now(disk: Image, *reads: tuple[int, int]) -> tuple[int, list[bytes]]:
    """How many of (offset, length) were read at once, and what is in the places of all."""
    places = [(offset, memoryview(bytearray(length))) for offset, length in reads]
    return disk.read_now(places), [bytes(into) for _, into in places]


def test_at_once_only_what_is_here_is_read(
    bench: Bench, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        disk = bench.image()
        assert read_now(disk, (0, 512)) == (0, [bytes(512)])
        await disk.read(0, 2 * BLOCK_BYTES)
        await disk.write(2 * BLOCK_BYTES, b"w" * BLOCK_BYTES, False)
        beyond = (2 * BLOCK_BYTES + 8, BLOCK_BYTES)  # its last 8 bytes are not here
        done, found = read_now(disk, (5, BLOCK_BYTES), (3 * BLOCK_BYTES - 9, 9), beyond, (0, 1))
        assert done == 2
        assert found == [point.content[5 : 5 + BLOCK_BYTES], b"w" * 9, bytes(BLOCK_BYTES), bytes(1)]
        assert len(point.asked) == 1

        def fails(offset: int, into: memoryview) -> bool:
            if offset:
                raise OSError(errno.EIO, "broken")
            into[:] = b"c" * len(into)
            return True

        monkeypatch.setattr(bench.overlay, "read_cached", fails)
        assert read_now(disk, (0, 1), (1, 1), (0, 1))[0] == 1

    run(story())


def test_holes_are_told_as_the_file_and_the_point_have_them(bench: Bench, point: Point) -> None:
    async def story() -> None:
        disk = bench.image()
        data, hole = Extent(MIB, State.DATA), Extent(MIB, State.HOLE)
        rest = Extent(SIZE - 2 * MIB, State.DATA)
        assert await disk.extents(0, SIZE, 9) == [data, hole, rest]
        await disk.write(MIB + 5 * BLOCK_BYTES, bytes([1] * BLOCK_BYTES), False)
        assert await disk.extents(MIB, MIB, 3) == [
            Extent(5 * BLOCK_BYTES, State.HOLE),
            Extent(BLOCK_BYTES, State.DATA),
            Extent(MIB - 6 * BLOCK_BYTES, State.HOLE),
        ]
        assert point.asked == []

    run(story())


def test_where_the_point_cannot_be_asked_holes_are_told_of_what_is_here_alone(
    bench: Bench, point: Point
) -> None:
    async def story() -> None:
        point.is_away = True
        disk = bench.image()
        assert await disk.extents(0, SIZE, 9) == [Extent(SIZE, State.DATA)]
        point.is_away = False
        await disk.read(0, MIB)
        await disk.read(MIB, MIB)
        point.is_away = True
        data, hole = Extent(MIB, State.DATA), Extent(MIB, State.HOLE)
        rest = Extent(SIZE - 2 * MIB, State.DATA)
        assert await disk.extents(0, SIZE, 9) == [data, hole, rest]
        assert await disk.extents(0, SIZE, 1) == [data]
        assert await disk.extents(MIB + 100, 1000, 9) == [Extent(1000, State.HOLE)]
        assert await disk.extents(2 * MIB + 5, 10, 9) == [Extent(10, State.DATA)]
        await disk.trim(2 * MIB, 16 * BLOCK_BYTES, False)
        await disk.write(MIB, b"x", False)
        assert point.asked == [(0, MIB), (MIB, 2 * MIB)]
        assert await disk.extents(0, SIZE, 9) == [
            Extent(MIB + BLOCK_BYTES, State.DATA),
            Extent(MIB + 15 * BLOCK_BYTES, State.HOLE),
            Extent(SIZE - 2 * MIB - 16 * BLOCK_BYTES, State.DATA),
        ]

    run(story())
