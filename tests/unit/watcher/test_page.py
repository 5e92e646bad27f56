"""The page: read whole or not at all."""

from __future__ import annotations

from pathlib import Path

from cdp_agent.watcher.page import Page, PageReader, PageWriter, page_path

PAGE = Page(generation=2**64 - 1, changes=7, epoch=3, ready=True, dirty=False)


def test_no_page_is_none(tmp_path: Path) -> None:
    assert PageReader(tmp_path).read() is None


def test_a_torn_page_is_none(tmp_path: Path) -> None:
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    assert reader.read() is None
    writer.publish(PAGE)
    path = page_path(tmp_path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        torn = bytearray(whole)
        torn[bit // 8] ^= 1 << bit % 8
        path.write_bytes(torn)
        assert reader.read() is None
    path.write_bytes(whole)
    assert reader.read() == PAGE
    writer.close()
    reader.close()


def test_what_is_published_is_read(tmp_path: Path) -> None:
    writer, reader = PageWriter(tmp_path), PageReader(tmp_path)
    for page in (PAGE, Page(1, 8, 0, False, True), Page(1, 9, 4, True, True)):
        writer.publish(page)
        assert reader.read() == page
    writer.close()
    reader.close()
