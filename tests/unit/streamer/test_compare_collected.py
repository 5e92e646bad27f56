"""What cuts beyond a journal position wrote is not known where any of them was collected."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cdp_agent.streamer import compare
from cdp_agent.streamer.compare import Comparison
from cdp_container.domain.contents import Contents
from cdp_container.domain.gathering import gather
from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.image import Branch
from cdp_container.domain.ledgers import Ledger
from cdp_container.format.index import Run
from cdp_container.format.keys import segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.journal.position import Position
from cdp_container.store.api import Store
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, discard, in_force, write
from tests.sim.clock import VirtualTime

GENERATION, BLOCK, DISK_BYTES = 7, 4096, 1 << 16


class World:
    """Cut n was taken at offset n of the journal, n from 0 on, and wrote block n."""

    def __init__(self) -> None:
        self.store = MemoryStore(VirtualTime())
        self.site = Site(self.store, seed=2, encrypted=False)
        self.disk = self.site.add_volume("disk", DISK_BYTES)
        self.site.begin_epoch()
        self.cuts = [self.cut(number) for number in range(6)]
        self.site.protect(self.cuts[-1])

    def cut(self, number: int) -> Place:
        return self.site.cut([write(self.disk, number * BLOCK, self.site.rng.randbytes(BLOCK))])

    def collect(self, epoch: int, first: int, last: int, retired: bool = True) -> None:
        pack = self.site.pack(epoch, first, last, cut_records=not retired)
        runs = [self.site.run(epoch, first, last), in_force(pack)]
        if retired:
            runs.append(Run(RunKind.CUTS_RETIRED, epoch, first, last, bytes(32)))
        self.site.write_ledger(runs)

    def beyond(self, offset: int) -> Iterable[tuple[int, int]] | None:
        comparison = self.comparison()
        try:
            return comparison.written_beyond(0, Position(GENERATION, offset))
        finally:
            assert not comparison.why_everything
            comparison.close()

    def comparison(self) -> Comparison:
        source = SourceIdentity("disk", "/disk", self.disk, DISK_BYTES)
        identity = AgentIdentity(
            domain=self.site.domain, name="shop", site="site-a", encryption="none", public_key=b"",
            index_key=b"", key_block=b"", config_digest=bytes(32), sources=(source,),
        )  # fmt: skip
        return Comparison(self.store, identity, max(self.site.images))


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("retired", [True, False])
def test_where_a_cut_beyond_it_was_collected_nothing_is_known(offset: int, retired: bool) -> None:
    """Its discards may be gone for good, with what lay under them; a disk that lost them has that still."""
    world = World()
    world.collect(1, 3, 4, retired)
    assert world.beyond(offset) is None


def test_also_in_an_older_epoch_of_the_branch() -> None:
    world = World()
    world.collect(1, 5, 5)
    world.site.begin_epoch()
    world.site.journal = (GENERATION, 9)
    world.site.cut([discard(world.disk, 0, BLOCK)])
    assert world.beyond(3) is None
    assert world.beyond(5) == [(0, BLOCK)]


def test_what_was_collected_before_it_is_no_reason() -> None:
    world = World()
    world.collect(1, 1, 3)
    assert world.beyond(3) == [(4 * BLOCK, BLOCK), (5 * BLOCK, BLOCK)]
    assert world.beyond(5) == []


def test_a_side_branch_is_no_reason() -> None:
    world = World()
    world.site.begin_epoch(base=world.cuts[2])
    world.collect(1, 5, 5)
    world.site.journal = (GENERATION, 9)
    world.site.cut([write(world.disk, 0, bytes(BLOCK))])
    assert world.beyond(2) == [(0, BLOCK)]


def test_a_pass_while_the_index_is_read_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a whole volume would be sent, where little of it is to be compared."""
    world = World()
    ledgers = []

    def raced(
        store: Store, domain: bytes, keys: ReaderKeys, branch: Branch, ledger: Ledger, keeps_sums: bool
    ) -> Contents:
        ledgers.append(ledger)
        if len(ledgers) == 1:
            world.collect(1, 1, 4)
            for seq in range(1, 5):
                world.store.delete(segment_key(1, seq))
        return gather(store, domain, keys, branch, ledger, keeps_sums=keeps_sums)

    monkeypatch.setattr(compare, "gather", raced)
    assert world.beyond(4) == [(5 * BLOCK, BLOCK)]
    assert len(ledgers) == 2


def test_what_is_lost_is_looked_for_once() -> None:
    world = World()
    world.store.delete(segment_key(1, 2))
    comparison = world.comparison()
    assert comparison.written_beyond(0, Position(GENERATION, 4)) is None
    assert comparison.why_everything
