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
    map_file.put(0, b"\x20")
    map_file.sync()
    map_file.put(1, b"\x02")
    files.lose_power(Random(1), 1.0, suffixes=(".map",))
    assert ranges(tmp_path / "one.map") == [(5 * BLOCK, BLOCK)]


def test_the_bits_are_there_with_the_name(tmp_path: Path) -> None:
    """A map takes the place of another one: there is no moment in which it says less than it should."""
    files = Lossy()
    create_map(files, tmp_path / "one.map", HEADER, b"\x20".ljust(HEADER.map_bytes, b"\0")).close()
    seen = []
    files.fail = lambda name, path: seen.append(ranges(tmp_path / "one.map"))
    create_map(files, tmp_path / "one.map", HEADER, b"\x60".ljust(HEADER.map_bytes, b"\0")).close()
    files.lose_power(Random(1), 1.0, suffixes=(".map", ".new"))
    assert ranges(tmp_path / "one.map") == [(5 * BLOCK, 2 * BLOCK)]
    assert seen.count([(5 * BLOCK, BLOCK)]) == len(seen) > 2


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
    map_file.put(0, b"\x01")
    files.fail = lambda name, path: OSError(errno.EIO, "lost") if name == "fdatasync" else None
    with pytest.raises(OSError, match="lost"):
        map_file.sync()
    files.fail = lambda name, path: None
    map_file.rewrite()
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
