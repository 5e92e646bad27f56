"""Payloads are read from the journal as rarely as memory allows, and no more of them are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.streamer import payloads
from cdp_agent.streamer.coalesce import coalesce
from cdp_agent.streamer.payloads import Chunk, chunks_of
from cdp_container.format.layout import ExtentKind
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Record
from tests.unit.streamer.site import AgentSite


class CountingReader(JournalReader):
    """Counts the payloads that are read."""

    reads = 0

    def read_payload(self, record: Record, start: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        return super().read_payload(record, start, length)


def covered(site: AgentSite, large_bytes: int, count: int) -> tuple[bytes, int]:
    """Large writes with small ones upon them: what a cut of them holds, and how many payloads were read."""
    assert site.writer is not None
    start = site.writer.tail
    for number in range(count):
        site.write(0, number * large_bytes, bytes([number + 1]) * large_bytes)
    for number in range(count):
        for part in range(0, large_bytes, 16_384):
            site.write(0, number * large_bytes + part + 4096, b"s" * 512)
    with CountingReader(site.directory / "journal", site.identity.domain) as reader:
        records = list(reader.records(start, site.writer.tail))
        image = bytearray(large_bytes * count)
        for chunk in chunks_of(coalesce(records), reader):
            assert chunk.data is not None
            image[chunk.offset : chunk.offset + chunk.length] = chunk.data
        return bytes(image), reader.reads


def test_large_payload_is_read_once_for_all_its_gaps(tmp_path: Path) -> None:
    site = AgentSite(tmp_path)
    image, reads = covered(site, 128 << 10, 4)
    assert image == bytes(site.images[0][: len(image)])
    assert reads == 4 + 4 * 8, "each large one once, each small one once"


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "KEPT_BYTES_MAX", 100 << 10)
    site = AgentSite(tmp_path)
    image, reads = covered(site, 128 << 10, 4)
    assert image == bytes(site.images[0][: len(image)]), "what is not kept is read again, and the same"
    assert reads > 4 + 4 * 8


def chunks_written(site: AgentSite, writes: list[tuple[int, bytes]]) -> list[Chunk]:
    assert site.writer is not None
    start = site.writer.tail
    for offset, data in writes:
        site.write(0, offset, data)
    with JournalReader(site.directory / "journal", site.identity.domain) as reader:
        return list(chunks_of(coalesce(list(reader.records(start, site.writer.tail))), reader))


def test_zeros_that_were_written_need_no_frame(tmp_path: Path) -> None:
    """They are joined, so that a disk wiped with zeros does not fill indexes."""
    chunks = chunks_written(AgentSite(tmp_path), [(0, bytes(256 << 10)), (512 << 10, bytes(64 << 10))])
    assert [(c.offset, c.length, c.kind, c.data) for c in chunks] == [
        (0, 256 << 10, ExtentKind.ZERO, None),
        (512 << 10, 64 << 10, ExtentKind.ZERO, None),
    ]
    assert chunks[0].first_ns <= chunks[0].last_ns


@pytest.mark.parametrize("at", [0, 1, 65_535])
def test_one_byte_is_enough_to_be_data(tmp_path: Path, at: int) -> None:
    data = bytearray(64 << 10)
    data[at] = 1
    chunks = chunks_written(AgentSite(tmp_path), [(0, bytes(64 << 10)), (64 << 10, bytes(data))])
    assert [chunk.kind for chunk in chunks] == [ExtentKind.ZERO, ExtentKind.DATA]
    assert chunks[1].data == bytes(data)


def test_a_void_has_the_times_of_all_its_writes(tmp_path: Path) -> None:
    halves = [(64 << 10, bytes(64 << 10)), (0, bytes(64 << 10))]
    (chunk,) = chunks_written(AgentSite(tmp_path), halves)
    assert 0 < chunk.first_ns < chunk.last_ns


def test_a_void_is_no_longer_than_the_format_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "EXTENT_VOID_BYTES_MAX", 128 << 10)
    chunks = chunks_written(AgentSite(tmp_path), [(0, bytes(192 << 10))])
    assert [chunk.length for chunk in chunks] == [128 << 10, 64 << 10]
