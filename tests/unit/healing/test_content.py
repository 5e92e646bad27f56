"""What the journal still has is offered: the very records of a cut, and every write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_agent.healing.content import offer_cut, offer_records
from cdp_agent.healing.hole import Hole
from cdp_container.format.index import Extent
from cdp_container.format.layout import ExtentKind
from cdp_container.format.sums import block_sums
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from tests.unit.streamer.site import AgentSite

BLOCK = 4096


@pytest.fixture
def site(tmp_path: Path) -> AgentSite:
    return AgentSite(tmp_path, volumes=("disk", "log"), size_bytes=64 * BLOCK)


def hole_of(site: AgentSite, source: int, offset: int, data: bytes) -> Hole:
    space = site.identity.sources[source].space
    return Hole(Extent(space, offset, len(data), ExtentKind.DATA, 0, 0, None, block_sums(offset, data)))


def spaces(site: AgentSite) -> list[bytes]:
    return [source.space for source in site.identity.sources]


def tail(site: AgentSite) -> Position:
    assert site.writer is not None
    return site.writer.tail


def test_every_write_is_offered_to_its_own_volume(site: AgentSite) -> None:
    data = os.urandom(4 * BLOCK)
    site.write(1, 8 * BLOCK, data)
    site.write(1, 8 * BLOCK, os.urandom(4 * BLOCK))
    wanted, other = hole_of(site, 1, 9 * BLOCK, data[BLOCK : 3 * BLOCK]), hole_of(site, 0, 8 * BLOCK, data)
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        offer_records([wanted, other], journal, spaces(site), tail(site))
    assert wanted.is_filled
    assert not other.is_filled
    assert other.found_bytes == 0


def test_only_the_records_of_the_cut_make_its_extents(site: AgentSite) -> None:
    """What was written before and after it looks the same but for its bytes."""
    site.write(0, 512, b"before" * 10)
    after = tail(site)
    site.write(0, 512, b"within" * 10)
    up_to = tail(site)
    site.write(0, 512, b"beyond" * 10)
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        hole = hole_of(site, 0, 512, b"within" * 10)
        offer_cut([hole], journal, spaces(site), after, up_to)
        assert bytes(hole.content) == b"within" * 10
        longer = hole_of(site, 0, 512, b"within" * 11)
        offer_cut([longer], journal, spaces(site), after, up_to)
        assert not longer.is_filled


def test_a_journal_that_does_not_reach_so_far_is_no_source(site: AgentSite) -> None:
    data = os.urandom(BLOCK)
    site.write(0, 0, data)
    hole = hole_of(site, 0, 0, data)
    with JournalReader(site.directory / "journal", site.identity.domain) as journal:
        offer_cut([hole], journal, spaces(site), Position(99, 0), tail(site))
        offer_cut([hole], journal, spaces(site), tail(site), Position(99, 5))
        offer_records([hole], journal, spaces(site), NOWHERE)
    assert not hole.is_filled
