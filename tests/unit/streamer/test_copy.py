"""Copying a volume: every byte of it and no hole, in rounds that a cut can hold."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from cdp_agent.streamer.copy import Doubt, Reading, Volume, is_empty
from cdp_agent.streamer.payloads import Chunk
from cdp_container.errors import BackingUnreadable, DeviceError
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import EXTENT_DATA_BYTES_MAX

SIZE = 4 << 20


def volume_of(path: Path, parts: dict[int, bytes], size: int = SIZE) -> Volume:
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in parts.items():
            os.pwrite(file.fileno(), data, at)
    return Volume(0, path, size)


def copied(volume: Volume, cover: bool, bytes_max: int = 1 << 30) -> list[Chunk]:
    return [chunk for one in rounds_of(Doubt(volume, None, bytes_max), cover) for chunk in one]


def rounds_of(doubt: Doubt, cover: bool) -> list[list[Chunk]]:
    reading = Reading(doubt, cover)
    rounds = []
    while not reading.is_done:
        rounds.append(list(reading.round()))
    return rounds


def image_of(chunks: list[Chunk], size: int, before: int) -> bytes:
    image = bytearray([before]) * size
    for chunk in chunks:
        image[chunk.offset : chunk.offset + chunk.length] = chunk.data or bytes(chunk.length)
    return bytes(image)


PARTS = {
    0: b"boot" * 100,
    70_000: b"x" * 200_000,
    1 << 20: bytes(300_000) + b"y",
    SIZE - 512: b"z" * 512,
}


@pytest.mark.parametrize("bytes_max", [1 << 30, 100_000, 4096])
def test_a_copy_over_nothing_leaves_zeros_out(tmp_path: Path, bytes_max: int) -> None:
    volume = volume_of(tmp_path / "disk", PARTS)
    chunks = copied(volume, cover=False, bytes_max=bytes_max)
    assert all(chunk.kind is ExtentKind.DATA and chunk.length <= EXTENT_DATA_BYTES_MAX for chunk in chunks)
    assert image_of(chunks, SIZE, 0) == volume.backing.read_bytes()
    assert sum(chunk.length for chunk in chunks) < 600_000


def test_a_copy_over_an_older_one_covers_all_of_it(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", PARTS)
    assert image_of(copied(volume, cover=True), SIZE, 255) == volume.backing.read_bytes()


@pytest.mark.parametrize("seed", range(10))
def test_a_random_volume_comes_back(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    parts = {rng.randrange(SIZE - 9000): rng.randbytes(rng.randrange(1, 9000)) for _ in range(30)}
    volume = volume_of(tmp_path / "disk", parts)
    chunks = copied(volume, cover=seed % 2 == 1, bytes_max=rng.choice((5000, 50_000, 1 << 30)))
    ends = [chunk.offset + chunk.length for chunk in chunks]
    assert all(end <= chunk.offset for end, chunk in zip(ends, chunks[1:], strict=False))
    assert image_of(chunks, SIZE, 255 * (seed % 2)) == volume.backing.read_bytes()


def test_rounds_read_no_more_than_they_may(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", {0: b"x" * SIZE})
    sizes = [
        sum(chunk.length for chunk in one) for one in rounds_of(Doubt(volume, None, 1 << 20), cover=False)
    ]
    assert max(sizes) == 1 << 20
    assert sum(sizes) == SIZE


def test_rounds_send_no_more_than_they_may(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", {0: b"x" * SIZE})
    reading = Reading(Doubt(volume, sent_bytes_max=100_000), cover=False)
    for chunk in reading.round():
        reading.sent(chunk.length)
    assert reading.take_read_bytes() == 1 << 20, "what was begun to be read is taken"
    assert reading.take_read_bytes() == 0
    assert not reading.is_done


def test_only_what_is_in_doubt_is_read(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", {0: b"x" * SIZE})
    ranges = [(4096, 8192), (SIZE - 4096, 8192)]
    (chunks,) = rounds_of(Doubt(volume, ranges), cover=True)
    assert [(chunk.offset, chunk.length) for chunk in chunks] == [(4096, 8192), (SIZE - 4096, 4096)]


def test_where_data_lies_is_seen_when_its_round_is_read(tmp_path: Path) -> None:
    """A hole that was filled meanwhile is in no cut but this one."""
    volume = volume_of(tmp_path / "disk", {0: b"x" * (2 << 20)})
    reading = Reading(Doubt(volume, read_bytes_max=1 << 20), cover=True)
    chunks = list(reading.round())
    with volume.backing.open("r+b") as file:
        file.seek(3 << 20)
        file.write(b"filled")
    while not reading.is_done:
        chunks += reading.round()
    assert image_of(chunks, SIZE, 255) == volume.backing.read_bytes()


def test_an_empty_volume_is_one_round(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", {})
    assert is_empty(volume)
    assert copied(volume, cover=False) == []
    assert [chunk.kind for chunk in copied(volume, cover=True)] == [ExtentKind.ZERO]


def test_a_volume_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackingUnreadable, match="disk"):
        copied(Volume(0, tmp_path / "disk", SIZE), cover=False)


def test_a_volume_that_shrank_is_refused(tmp_path: Path) -> None:
    volume = volume_of(tmp_path / "disk", {0: b"x" * SIZE})
    reading = Reading(Doubt(volume, read_bytes_max=1 << 20), cover=False)
    list(reading.round())
    os.truncate(volume.backing, 1000)
    with pytest.raises(DeviceError, match="ends at"):
        list(reading.round())
