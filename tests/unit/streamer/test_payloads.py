"""Payloads are read from the journal as rarely as memory allows, and no more of them are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.streamer import payloads
from cdp_agent.streamer.coalesce import coalesce
from cdp_agent.streamer.payloads import chunks_of
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
