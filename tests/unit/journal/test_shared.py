"""The shared pages: whatever is torn, a reader gets a whole value, the newest there is."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from isal.isal_zlib import crc32

from cdp_container.errors import JournalDamaged
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import (
    PAGE_BYTES,
    SLOT_BYTES,
    GateLevel,
    SharedPages,
    SplitterPage,
    StreamerPage,
)

PAGE = SplitterPage(
    generation=2**64 - 1,
    tail=Position(5, 6),
    synced=Position(7, 8),
    overflow_at=Position(9, 10),
    overflow_ns=13,
    compare_all=True,
    exports_open=True,
    sync_failed=True,
    running=True,
    used_bytes=11,
    limit_bytes=12,
    boot=b"0123456789abcdef",
    applied=Position(14, 15),
    redos=16,
    episode=17,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def pages(path: Path) -> Iterator[SharedPages]:
    opened = SharedPages(path)
    yield opened
    opened.close()


def test_nothing_was_published_yet(pages: SharedPages) -> None:
    assert pages.splitter.read() is None
    assert pages.streamer.read() is None


def test_both_pages_come_back_in_another_process(pages: SharedPages, path: Path) -> None:
    streamer = StreamerPage(Position(1, 2), 3, GateLevel.CLOSED)
    pages.splitter.publish(PAGE, durable=True)
    pages.streamer.publish(streamer)
    other = SharedPages(path)
    assert other.splitter.read() == PAGE
    assert other.streamer.read() == streamer
    other.close()


@pytest.mark.parametrize(
    "page",
    [
        SplitterPage(compare_all=True),
        SplitterPage(exports_open=True),
        SplitterPage(sync_failed=True),
        SplitterPage(running=True),
        SplitterPage(writes_closed=True),
    ],
)
def test_every_flag_stands_alone(pages: SharedPages, page: SplitterPage) -> None:
    pages.splitter.publish(page)
    assert pages.splitter.read() == page


def test_a_streamer_page_of_before_there_was_a_gate_is_read(pages: SharedPages, path: Path) -> None:
    body = struct.pack("<IQQQQ", 1, 5, 1, 2, 3)
    data = bytearray(path.read_bytes())
    data[PAGE_BYTES : PAGE_BYTES + 4 + len(body)] = crc32(body).to_bytes(4, "little") + body
    path.write_bytes(data)
    assert pages.streamer.read() == StreamerPage(Position(1, 2), 3, GateLevel.OPEN)
    pages.streamer.publish(StreamerPage(Position(1, 4), 3, GateLevel.NO_WRITES))
    assert pages.streamer.read() == StreamerPage(Position(1, 4), 3, GateLevel.NO_WRITES)


def test_overflow_is_told_by_its_position() -> None:
    assert PAGE.overflowed
    assert not replace(PAGE, overflow_at=NOWHERE).overflowed


@pytest.mark.parametrize("byte", range(16 + 104))
def test_a_torn_newest_slot_shows_the_value_before(pages: SharedPages, path: Path, byte: int) -> None:
    pages.splitter.publish(PAGE)  # sequence 1: slot 1
    pages.splitter.publish(replace(PAGE, used_bytes=99))  # sequence 2: slot 0
    pages.close()
    data = bytearray(path.read_bytes())
    data[byte] ^= 0xFF
    path.write_bytes(data)
    reopened = SharedPages(path)
    assert reopened.splitter.read() == PAGE
    reopened.splitter.publish(replace(PAGE, used_bytes=100))
    read = reopened.splitter.read()
    assert read is not None
    assert read.used_bytes == 100
    reopened.close()


def test_two_torn_slots_are_damage(pages: SharedPages, path: Path) -> None:
    pages.splitter.publish(PAGE)
    pages.splitter.publish(PAGE)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    data[SLOT_BYTES + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalDamaged):
        pages.splitter.read()
    assert data[PAGE_BYTES:] == bytes(PAGE_BYTES)


def test_a_file_that_was_cut_short_is_an_error_and_no_signal(pages: SharedPages, path: Path) -> None:
    """Where a mapping would end the process: a page that cannot be had."""
    pages.splitter.publish(PAGE)
    os.truncate(path, 0)
    assert pages.splitter.read() is None
    pages.splitter.publish(PAGE)
    assert pages.splitter.read() == PAGE


def test_a_disk_that_takes_no_page_is_an_error(pages: SharedPages, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.splitter.publish(PAGE)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: len(data) // 2)
    with pytest.raises(OSError, match="in part"):
        pages.splitter.publish(replace(PAGE, used_bytes=99))
