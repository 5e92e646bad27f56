"""Heads that are kept for catalogs: as many as the widest may hold, and no longer than until it was built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdp_agent.streamer import build
from cdp_agent.streamer.build import CutBuilder, EpochFacts
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.step_types import CATALOG_SEGMENTS, WriteCatalog
from cdp_agent.streamer.steps import FLYING_MAX
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import SourceIdentity
from cdp_container.format.assemble import SealedObject
from cdp_container.format.codec import Compressor
from cdp_container.format.layout import ObjectKind
from cdp_container.format.limits import BULK_INDEX_BYTES_MAX
from cdp_container.format.place import NOWHERE
from cdp_container.format.seal import WriterKeys
from cdp_container.journal.record import Record

NARROW, WIDE = CATALOG_SEGMENTS[0], CATALOG_SEGMENTS[-1]
WIDEST = len(CATALOG_SEGMENTS) - 1


class NoJournal:
    def records(self, *given: object) -> Iterator[Record]:
        return iter(())


def builder_with(segments: int) -> CutBuilder:
    builder = CutBuilder(
        EpochFacts(1, NOWHERE, NOWHERE, "a", "test"),
        WriterKeys(bytes(16)),
        [SourceIdentity("db", "/db", bytes(16), 1 << 20)],
        NoJournal(),  # type: ignore[arg-type]
        Copying({}, None),
        SystemClock(),
        bytes,
        Compressor(level=1),
    )
    for seq in range(1, segments + 1):
        builder._remember(ObjectKind.SEGMENT, seq, SealedObject("key", bytes(200), bytes(32), 100))
    return builder


def test_what_the_widest_catalog_may_hold_is_kept() -> None:
    """Else a restore of small writes that compress well would read sixteen times as many catalogs."""
    assert build.HEADS_BYTES_MAX >= BULK_INDEX_BYTES_MAX
    assert WIDE + NARROW + FLYING_MAX <= build.ENTRIES_MAX


def test_they_are_forgotten_once_they_are_in_the_widest_catalog() -> None:
    builder = builder_with(WIDE + NARROW)
    for number in range(1, WIDE // NARROW + 1):
        assert builder.catalog(WriteCatalog(0, number, (number - 1) * NARROW + 1, number * NARROW))
    assert len(builder._entries) == WIDE + NARROW
    assert builder.catalog(WriteCatalog(WIDEST, 1, 1, WIDE))
    assert [entry.seq for entry in builder._entries] == list(range(WIDE + 1, WIDE + NARROW + 1))
    assert builder._entries_bytes == 100 * NARROW
    assert builder.catalog(WriteCatalog(0, WIDE // NARROW + 1, WIDE + 1, WIDE + NARROW))


@pytest.mark.parametrize("limit", ["HEADS_BYTES_MAX", "ENTRIES_MAX"])
def test_where_there_are_too_many_the_oldest_are_forgotten_and_no_catalog_lacks_one(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(build, limit, {"HEADS_BYTES_MAX": 100 * NARROW, "ENTRIES_MAX": NARROW}[limit])
    builder = builder_with(NARROW + 1)
    assert builder.catalog(WriteCatalog(0, 1, 1, NARROW)) is None
    assert builder._entries_bytes == 100 * NARROW
