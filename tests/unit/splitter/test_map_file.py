"""Maps on a machine that loses what was not synced and fails calls."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.map_file import create_map, open_map
from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import MAP_HEADER_BYTES, MapHeader, dirty_ranges
from tests.unit.splitter.machine import Lossy

HEADER = MapHeader(bytes(16), bytes(range(16)), 7, 64 << 20, 4096)
BLOCK = HEADER.block_bytes


def ranges(path: Path) -> list[tuple[int, int]]:
    map_file = open_map(Lossy(), path)
    map_file.close()
    return list(dirty_ranges(map_file.header, map_file.bits))


def test_what_is_synced_survives_a_power_loss(tmp_path: Path) -> None:
    files = Lossy()
    map_file = create_map(files, tmp_path / "one.map", HEADER)
    assert map_file.mark(5 * BLOCK + 17, 1)
    map_file.sync()
    assert map_file.mark(9 * BLOCK, BLOCK)
    assert map_file.is_dirty
    files.lose_power(Random(1), 1.0, suffixes=(".map",))
    assert ranges(tmp_path / "one.map") == [(5 * BLOCK, BLOCK)]


def test_a_bit_that_is_set_costs_no_call(tmp_path: Path) -> None:
    files = Lossy()
    map_file = create_map(files, tmp_path / "one.map", HEADER)
    assert map_file.mark(0, 100 * BLOCK)
    assert map_file.has_all(17 * BLOCK, 2 * BLOCK)
    assert not map_file.has_all(99 * BLOCK, 2 * BLOCK)
    files.calls.clear()
    assert not map_file.mark(50 * BLOCK, 3 * BLOCK)
    assert files.calls == []


def test_what_was_read_after_a_kill_is_not_taken_for_durable(tmp_path: Path) -> None:
    files = Lossy()
    create_map(files, tmp_path / "one.map", HEADER).mark(0, BLOCK)
    again = open_map(files, tmp_path / "one.map")
    assert again.is_dirty
    again.sync()
    files.lose_power(Random(1), 1.0, suffixes=(".map",))
    assert ranges(tmp_path / "one.map") == [(0, BLOCK)]


def test_cleared_blocks_are_clear(tmp_path: Path) -> None:
    map_file = create_map(Lossy(), tmp_path / "one.map", HEADER)
    map_file.mark(0, 20 * BLOCK)
    map_file.clear(3 * BLOCK, 9 * BLOCK)
    map_file.close()
    assert ranges(tmp_path / "one.map") == [(0, 3 * BLOCK), (12 * BLOCK, 8 * BLOCK)]


@pytest.mark.parametrize("call", ["allocate", "zero", "pwritev", "fdatasync"])
def test_a_map_that_cannot_be_made_leaves_nothing(tmp_path: Path, call: str) -> None:
    files = Lossy()
    files.fail = lambda name, path: OSError(errno.ENOSPC, "full") if name == call else None
    with pytest.raises(OSError, match="full"):
        create_map(files, tmp_path / "one.map", HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_sync_is_mended_by_writing_all_again_only(tmp_path: Path) -> None:
    files = Lossy()
    map_file = create_map(files, tmp_path / "one.map", HEADER)
    map_file.mark(0, BLOCK)
    files.fail = lambda name, path: OSError(errno.EIO, "lost") if name == "fdatasync" else None
    with pytest.raises(OSError, match="lost"):
        map_file.sync()
    files.fail = lambda name, path: None
    map_file.rewrite()
    assert not map_file.is_dirty
    files.lose_power(Random(1), 1.0, suffixes=(".map",))
    assert ranges(tmp_path / "one.map") == [(0, BLOCK)]


def test_leftovers_of_a_killed_start_do_not_shine_through(tmp_path: Path) -> None:
    (tmp_path / "one.new").write_bytes(b"\xff" * (MAP_HEADER_BYTES + HEADER.map_bytes))
    create_map(Lossy(), tmp_path / "one.map", HEADER).close()
    assert ranges(tmp_path / "one.map") == []


@pytest.mark.parametrize("length", [0, 50, MAP_HEADER_BYTES, MAP_HEADER_BYTES + HEADER.map_bytes - 1])
def test_a_short_file_is_no_map(tmp_path: Path, length: int) -> None:
    path = tmp_path / "one.map"
    create_map(Lossy(), path, HEADER).close()
    with path.open("r+b") as file:
        file.truncate(length)
    with pytest.raises(JournalDamaged):
        open_map(Lossy(), path)
