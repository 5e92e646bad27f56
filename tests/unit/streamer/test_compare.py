"""A copy over an older cut sends what differs from it and nothing else; the counters say how much that is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cdp_agent.streamer import begin, compare, copy
from cdp_agent.streamer.compare import Comparison
from cdp_agent.streamer.copy import Doubt, Range, read_ranges
from cdp_agent.streamer.local import LocalDirectory
from cdp_agent.streamer.payloads import Chunk
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import save_notes
from cdp_container.errors import DeviceError, StoreUnavailable
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.journal.record import Kind
from cdp_container.store.api import Store
from tests.unit.streamer.site import DEADLINE_SECONDS, SIZE_BYTES, AgentSite
from tests.waiting import wait_until

BLOCK = 4096


@pytest.fixture
def site(tmp_path: Path) -> AgentSite:
    """Protected: 512 KiB of data in one cut, 10,000 unaligned bytes and 64 KiB of zeros in later ones."""
    site = AgentSite(tmp_path, whole=False)
    protect(site)
    return site


def protect(site: AgentSite) -> None:
    site.fill(0, 0, os.urandom(SIZE_BYTES // 2))
    copy_again(site)
    with site.streaming():
        site.publish(exports_open=True)
        for change in range(2):
            data = os.urandom(10_000)
            site.write(0, 600_000, data)
            site.fill(0, 600_000, data)
            site.flush()
            site.void(Kind.ZERO if change else Kind.DISCARD, 0, 64 << 10, 64 << 10)
            site.fill(0, 64 << 10, bytes(64 << 10))
            site.flush()


def copy_again(site: AgentSite) -> dict[str, Any]:
    """Nothing is whole any more; gives the facts of the run that copied."""
    save_notes(site.directory, replace(site.notes(), whole=frozenset()))
    site.publish(exports_open=False)
    with site.streaming():
        wait_until(lambda: site.notes().whole, "the copy is protected", DEADLINE_SECONDS)
        return site.facts()


def counted(facts: dict[str, Any]) -> tuple[int, int]:
    counters = facts["counters"]
    return counters["copy_compared_bytes"], counters["copy_different_bytes"]


def test_what_is_equal_is_not_sent_again(site: AgentSite) -> None:
    compared, different = counted(copy_again(site))
    assert compared == SIZE_BYTES
    # Blocks of which a write had a part have no checksum: two at each end of the unaligned one.
    assert different <= 2 * BLOCK
    assert site.restored("disk") == site.images[0]


def test_only_what_changed_is_sent(site: AgentSite) -> None:
    site.fill(0, 5 * BLOCK, os.urandom(BLOCK))
    site.fill(0, 300_000, b"within one block")
    site.fill(0, 8 * BLOCK, bytes(3 * BLOCK))
    site.fill(0, 900_000, b"where nothing was")
    facts = copy_again(site)
    assert counted(facts)[1] <= 8 * BLOCK
    assert facts["counters"]["stored_bytes"] < 12 * BLOCK
    assert site.restored("disk") == site.images[0]


def test_what_became_a_hole_reads_as_zeros(site: AgentSite) -> None:
    path = Path(site.identity.sources[0].path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    site.images[0][:] = bytes(SIZE_BYTES)
    copy_again(site)
    assert site.restored("disk") == bytes(SIZE_BYTES)


def test_an_unencrypted_index_is_compared_too(tmp_path: Path) -> None:
    site = AgentSite(tmp_path, whole=False, encrypted=False)
    protect(site)
    assert counted(copy_again(site))[1] <= 2 * BLOCK
    assert site.restored("disk") == site.images[0]


def test_a_damaged_index_is_not_believed(site: AgentSite) -> None:
    path = site.root / "container" / segment_key(1, 1)
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    facts = copy_again(site)
    assert counted(facts) == (SIZE_BYTES, SIZE_BYTES)
    assert "everything is sent again" in facts["last_error"]


def test_while_the_store_is_away_nothing_is_sent(site: AgentSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object, **options: object) -> NoReturn:
        raise StoreUnavailable("read the index", "no answer")

    save_notes(site.directory, replace(site.notes(), whole=frozenset()))
    site.publish(exports_open=False)
    with monkeypatch.context() as patched, site.streaming() as running:
        running.may_fail = True
        patched.setattr(compare, "gather", away)
        wait_until(lambda: running.error, "the run ends", DEADLINE_SECONDS)
    assert isinstance(running.error, StoreUnavailable)
    assert site.notes().whole == frozenset()
    assert counted(copy_again(site))[1] <= 2 * BLOCK


def test_an_older_index_would_lose_data(site: AgentSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: compared with the first cut, a block that went back to its content is left out."""
    first, cut = bytes(site.images[0][:BLOCK]), site.recovery().cuts[-1]
    site.fill(0, 0, os.urandom(BLOCK))
    copy_again(site)
    site.fill(0, 0, first)
    stale = site.restored("disk")
    assert stale != site.images[0]

    def compare_with_the_first_cut(store: Store, identity: AgentIdentity, base: Place) -> Comparison:
        return Comparison(store, identity, cut)

    with monkeypatch.context() as patched:
        patched.setattr(begin, "Comparison", compare_with_the_first_cut)
        copy_again(site)
    assert site.restored("disk")[:BLOCK] == stale[:BLOCK] != first
    site.fill(0, BLOCK, b"a true comparison follows the newest cut")
    copy_again(site)
    assert site.restored("disk") == site.images[0]


def test_a_copy_that_ended_early_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(tmp_path, whole=False)
    site.fill(0, 0, os.urandom(SIZE_BYTES))
    round_bytes, sent_rounds = 64 << 10, 3

    def in_small_rounds(self: LocalDirectory, source: int, episode: int | None) -> Doubt:
        return Doubt(self._volume(source), None, round_bytes)

    def ends_early(ranges: Iterable[Range], cover: bool) -> Iterator[Chunk]:
        for found in ranges:
            if found.start >= sent_rounds * round_bytes:
                last = site.root / "container" / segment_key(1, sent_rounds)
                wait_until(last.exists, "the rounds before are sent", DEADLINE_SECONDS)
                raise DeviceError("copy", "the streamer dies here")
            yield from read_ranges((found,), cover)

    monkeypatch.setattr(copy, "READ_BYTES", round_bytes)
    monkeypatch.setattr(LocalDirectory, "doubt", in_small_rounds)
    with monkeypatch.context() as patched, site.streaming() as running:
        running.may_fail = True
        patched.setattr(copy, "read_ranges", ends_early)
        wait_until(lambda: running.error, "the copy ends early", DEADLINE_SECONDS)
    assert counted(copy_again(site)) == (SIZE_BYTES, SIZE_BYTES - sent_rounds * round_bytes)
    assert site.restored("disk") == site.images[0]
