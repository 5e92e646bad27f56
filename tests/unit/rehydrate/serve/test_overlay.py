"""Overlays: bits, maps, and what every crash leaves of what was written, with mutants that must be caught."""

from __future__ import annotations

import errno
import os
import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.errors import BackingUnreadable
from rehydrate.serve import map_file
from rehydrate.serve.bits import Bits, bytes_of, pages_that_differ
from rehydrate.serve.map_file import BLOCK_BYTES, MapFile, decode_header, encode_header
from rehydrate.serve.overlay import Overlay, Part, create_overlay, fitting, open_overlay
from tests.unit.splitter.machine import Lossy

SPACE, BOOT, NEXT_BOOT = bytes(range(16)), b"b" * 16, b"c" * 16
BLOCKS = 40
SIZE = (BLOCKS - 1) * BLOCK_BYTES + 512
"""The last block is a short one."""


@given(st.integers(1, 200), st.data())
def test_bits_are_a_set_of_blocks(count: int, data: st.DataObject) -> None:
    bits, model = Bits(count, bytearray(bytes_of(count))), set[int]()
    for _ in range(data.draw(st.integers(0, 6))):
        low = data.draw(st.integers(0, count - 1))
        high = data.draw(st.integers(low + 1, count))
        bits.put(*bits.with_set(low, high))
        model.update(range(low, high))
    assert bits.here == len(model)
    low = data.draw(st.integers(0, count - 1))
    high = data.draw(st.integers(low + 1, count))
    assert bits.has_all(low, high) == model.issuperset(range(low, high))
    runs = bits.missing(low, high)
    assert {block for first, beyond in runs for block in range(first, beyond)} == set(
        range(low, high)
    ) - model
    assert all(one[1] < other[0] for one, other in pairwise(runs))


def test_pages_differ_where_a_byte_does() -> None:
    one, other = bytearray(10_000), bytearray(10_000)
    assert pages_that_differ(one, other, 4096) == []
    other[4096] = other[4097] = other[9999] = 1
    assert pages_that_differ(one, other, 4096) == [1, 2]


def test_parts_are_cut_to_what_is_missing() -> None:
    parts = [Part(0, 8192, None), Part(8192, 4096, b"x" * 4096)]
    found = fitting(parts, [(4096, 8192), (10_000, 10_010)])
    assert [(one.offset, one.length) for one in found] == [(4096, 4096), (10_000, 10)]
    assert found[0].data is None
    assert bytes(found[1].data or b"") == b"x" * 10


class Host:
    """A machine with one overlay. What the point holds of a block is its number; garbage lies in no hole."""

    def __init__(self, directory: Path) -> None:
        self.files = Lossy()
        self.base = directory / "disk"
        self.boot = BOOT
        create_overlay(self.files, self.base, SIZE, SPACE)
        self.files.sync_directory(directory)
        self.overlay = self.open()

    def open(self) -> Overlay:
        return open_overlay(self.files, self.base, SIZE, SPACE, self.boot)

    def kill(self) -> None:
        self.overlay.close()
        self.overlay = self.open()

    def lose_power(self, rng: random.Random) -> None:
        self.overlay.close()
        self.files.lose_power(rng, rng.choice((0.2, 0.5, 0.9, 1.0)), (".raw", ".map"))
        self.boot = rng.randbytes(16)
        self.overlay = self.open()


def of_point(block: int) -> bytes:
    return bytes([200]) * length_of(block) if block % 3 else bytes(length_of(block))


def length_of(block: int) -> int:
    return min(BLOCK_BYTES, SIZE - block * BLOCK_BYTES)


class Story:
    """Random operations on an overlay, and for each block what it may read as."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.rng = random.Random(seed)
        self.may: dict[
            int, list[bytes]
        ] = {}  # of a block: what it was at the last flush, and what came since
        self.number = 0

    def step(self) -> None:
        self.rng.choice((self.write, self.write, self.zero, self.fetch, self.flush, self.check))()

    def blocks(self) -> range:
        first = self.rng.randrange(BLOCKS)
        return range(first, min(first + self.rng.randrange(1, 6), BLOCKS))

    def _put(self, blocks: range, data: Callable[[int], bytes], by_zero: bool = False) -> None:
        overlay = self.host.overlay
        start = blocks[0] * BLOCK_BYTES
        content = b"".join(data(block) for block in blocks)
        if by_zero:
            overlay.zero(start, len(content), may_trim=True)
        else:
            overlay.write(start, content)
        overlay.mark(start, len(content))

    def write(self) -> None:
        self.number = self.number % 150 + 1
        blocks = self.blocks()
        self._put(blocks, lambda block: bytes([self.number]) * length_of(block))
        for block in blocks:
            self.may.setdefault(block, [of_point(block)]).append(bytes([self.number]) * length_of(block))

    def zero(self) -> None:
        blocks = self.blocks()
        self._put(blocks, lambda block: bytes(length_of(block)), by_zero=True)
        for block in blocks:
            self.may.setdefault(block, [of_point(block)]).append(bytes(length_of(block)))

    def fetch(self) -> None:
        for block in self.blocks():
            if not self.host.overlay.bits.has_all(block, block + 1):
                self._put(range(block, block + 1), of_point, by_zero=block % 3 == 0)

    def flush(self) -> None:
        self.host.overlay.begin_sync()()
        self.may = {block: values[-1:] for block, values in self.may.items()}

    def read(self, block: int) -> bytes:
        """As a guest would: what is not here is what the point has."""
        if not self.host.overlay.bits.has_all(block, block + 1):
            return of_point(block)
        return self.host.overlay.read(block * BLOCK_BYTES, length_of(block))

    def check(self) -> None:
        """Without a crash, or after a kill, every block is what was written last."""
        for block in range(BLOCKS):
            assert self.read(block) == self.may.get(block, [of_point(block)])[-1], block

    def check_after_power_loss(self) -> None:
        """Sector by sector, as disks write: what was flushed, or anything newer; the story goes on."""
        for block in range(BLOCKS):
            found = self.read(block)
            allowed = self.may.get(block, [of_point(block)])
            for at in range(0, len(found), 512):
                assert any(found[at : at + 512] == one[at : at + 512] for one in allowed), block
            if block in self.may:
                self.may[block] = [found]


def tell(directory: Path, seed: int) -> None:
    """A story with kills and power losses."""
    host = Host(directory)
    story = Story(host, seed)
    for _ in range(6):
        for _ in range(story.rng.randrange(1, 14)):
            story.step()
        if story.rng.random() < 0.4:
            host.kill()
            story.check()
        else:
            host.lose_power(story.rng)
            story.check_after_power_loss()
    host.overlay.close()


STORIES = 60


def stories(directory: Path) -> None:
    for seed in range(STORIES):
        (directory / str(seed)).mkdir()
        tell(directory / str(seed), seed)


def test_after_any_crash_no_block_is_older_than_its_flush_nor_garbage(tmp_path: Path) -> None:
    stories(tmp_path)


def test_the_map_before_the_data_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power is lost between: here by a kill, as the mark of an unfinished write stays in the page cache."""
    host = Host(tmp_path)
    host.overlay.mark(BLOCK_BYTES, BLOCK_BYTES)  # and not its bytes
    host.kill()
    with pytest.raises(AssertionError):
        Story(host, 0).check()
    host.overlay.close()


def test_a_durable_map_before_the_data_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_late(self: Overlay) -> Callable[[], None]:
        pages = self._map.take()
        return lambda: self._map.write_durable(pages)

    monkeypatch.setattr(Overlay, "begin_sync", sync_late)
    with pytest.raises(AssertionError):
        stories(tmp_path)


def test_bits_that_are_set_during_a_sync_and_count_with_it_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The durable map must hold the bits as they were before the data was synced."""
    host = Host(tmp_path)
    story = Story(host, 1)
    story._put(range(3, 4), lambda block: b"\1" * length_of(block))
    sync = host.overlay.begin_sync()
    story._put(range(4, 5), lambda block: b"\2" * length_of(block))
    sync()
    host.files.lose_power(random.Random(0), 1.0, (".raw", ".map"))
    host.overlay.close()
    host.boot = NEXT_BOOT
    host.overlay = host.open()
    assert host.overlay.bits.missing(0, BLOCKS) == [(0, 3), (4, BLOCKS)]
    host.overlay.close()


def test_a_live_map_that_counts_in_another_boot_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "lose_power", _keep_boot)
    with pytest.raises(AssertionError):
        stories(tmp_path)


def _keep_boot(self: Host, rng: random.Random) -> None:
    self.overlay.close()
    self.files.lose_power(rng, 0.9, (".raw",))
    self.overlay = self.open()


def test_without_a_live_map_what_a_killed_process_acknowledged_would_be_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path)
    story = Story(host, 2)
    story.write()
    host.boot = NEXT_BOOT  # as if the boot were another
    host.kill()
    with pytest.raises(AssertionError):
        story.check()
    host.overlay.close()


def test_a_failed_sync_is_never_got_over_and_the_next_start_goes_by_what_is_durable(tmp_path: Path) -> None:
    host = Host(tmp_path)
    story = Story(host, 3)
    story._put(range(2), lambda block: b"\1" * length_of(block))
    host.overlay.begin_sync()()
    story._put(range(2, 5), lambda block: b"\2" * length_of(block))
    host.files.fail = lambda name, path: (
        OSError(errno.EIO, "broken") if (name, path.suffix) == ("fdatasync", ".raw") else None
    )
    sync = host.overlay.begin_sync()
    with pytest.raises(OSError, match="broken") as caught:
        sync()
    host.overlay.failed(caught.value)
    host.files.fail = lambda name, path: None
    for refused in (host.overlay.refuse_failed, host.overlay.begin_sync):
        with pytest.raises(OSError, match="a sync of the overlay failed: broken"):
            refused()
    host.kill()
    assert host.overlay.bits.missing(0, BLOCKS) == [(2, BLOCKS)]
    assert host.overlay.failure is None
    host.overlay.close()


def test_a_start_that_is_killed_amid_making_the_live_map_right_does_it_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    story = Story(host, 4)
    story._put(range(2), lambda block: b"\1" * length_of(block))
    host.overlay.begin_sync()()
    story._put(range(2, 5), lambda block: b"\2" * length_of(block))
    host.overlay.close()
    host.boot = NEXT_BOOT
    writes = 0

    def dies(name: str, path: Path) -> OSError | None:
        nonlocal writes
        writes += name == "pwritev"
        return OSError(errno.EIO, "killed") if writes == 2 else None

    host.files.fail = dies
    with pytest.raises(BackingUnreadable, match="killed"):
        host.open()
    host.files.fail = lambda name, path: None
    host.overlay = host.open()
    assert host.overlay.bits.missing(0, BLOCKS) == [(2, BLOCKS)]
    assert not host.overlay._map.is_dirty
    host.overlay.close()


def test_a_write_that_cannot_be_noted_is_not_here(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.overlay.write(0, b"x" * BLOCK_BYTES)
    host.files.fail = lambda name, path: OSError(errno.EIO, "broken") if path.suffix == ".map" else None
    with pytest.raises(OSError, match="broken"):
        host.overlay.mark(0, BLOCK_BYTES)
    assert not host.overlay.has(0, 1)
    host.files.fail = lambda name, path: None
    host.overlay.close()


def test_what_is_no_overlay_of_this_volume_is_refused(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.overlay.close()
    files, base = host.files, host.base
    for size_bytes, space in ((SIZE + 1, SPACE), (SIZE, bytes(16))):
        with pytest.raises(BackingUnreadable, match="another volume"):
            open_overlay(files, base, size_bytes, space, BOOT)
    found, raw = tmp_path / "disk.map", tmp_path / "disk.raw"
    content = found.read_bytes()
    for damaged, why in (
        (b"", "damaged"),
        (b"\0" + content[1:], "damaged"),
        (content[:-1], "too few"),
        (content[:5000], "too few"),
    ):
        found.write_bytes(damaged)
        with pytest.raises(BackingUnreadable, match=why):
            open_overlay(files, base, SIZE, SPACE, BOOT)
    newer = bytearray(content)
    newer[8] = 2
    newer[56:60] = zlib.crc32(newer[:56]).to_bytes(4, "little")
    found.write_bytes(newer)
    with pytest.raises(BackingUnreadable, match="version 2"):
        open_overlay(files, base, SIZE, SPACE, BOOT)
    found.write_bytes(content)
    os.truncate(raw, SIZE - 1)
    with pytest.raises(BackingUnreadable, match="bytes of"):
        open_overlay(files, base, SIZE, SPACE, BOOT)
    raw.unlink()
    with pytest.raises(BackingUnreadable, match="No such file"):
        open_overlay(files, base, SIZE, SPACE, BOOT)
    assert decode_header(encode_header(map_file.MapHeader(SIZE, SPACE, BOOT)), found).blocks == BLOCKS


def test_a_map_of_many_pages_writes_only_what_changed(tmp_path: Path) -> None:
    """40,000 blocks: two pages of bits."""
    files = Lossy()
    size = 40_000 * BLOCK_BYTES
    create_overlay(files, tmp_path / "large", size, SPACE)
    overlay = open_overlay(files, tmp_path / "large", size, SPACE, BOOT)
    overlay.mark(39_999 * BLOCK_BYTES, BLOCK_BYTES)
    written: list[int] = []

    class Noting(MapFile):
        def write_durable(self, pages: map_file.Pages) -> None:
            written.extend(page for page, _ in pages)
            super().write_durable(pages)

    overlay._map.__class__ = Noting
    overlay.begin_sync()()
    assert written == [1]
    overlay.close()
    again = open_overlay(files, tmp_path / "large", size, SPACE, NEXT_BOOT)
    assert again.bits.missing(0, 40_000) == [(0, 39_999)]
    again.close()
