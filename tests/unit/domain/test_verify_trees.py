"""A verification, with all keys, by the index key alone, or of a sample: every byte of trees is covered."""

from __future__ import annotations

from typing import Final

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.budget import Budget
from cdp_container.domain.history import read_domain, read_history
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.opening import open_by_index
from cdp_container.domain.sampling import Turn
from cdp_container.domain.verify_run import verify_all, verify_sample
from cdp_container.domain.verify_types import Opened, Report
from cdp_container.format.keys import segment_key
from cdp_container.format.seal import derive_index_key
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Container
from tests.containers import Site
from tests.trees import Tree, directory, file
from tests.writes import write

NAMES: Final = segment_key(1, 1)
CONTENT: Final = segment_key(1, 2)
FLIPS: Final = 40
"""Bytes of each segment that are flipped, one after another."""
NO_BUDGET: Final = Budget(size_bytes=1 << 40)


class Trees:
    """A cut of name records alone, one of content of a file alone, one more."""

    def __init__(self, encrypted: bool) -> None:
        self.site = Site(MemoryStore(SystemClock()), seed=4, encrypted=encrypted)
        self.site.begin_epoch()
        self.home = Tree(self.site, "home")
        for number in range(20):
            self.home.add(b"d%d" % number, directory())
        space = self.site.rng.randbytes(16)
        self.home.add(b"d0/a", file(size_bytes=9000, space=space))
        self.home.cut()
        self.home.contents[space] = self.site.rng.randbytes(9000)
        self.site.cut([write(space, 0, self.home.contents[space])])
        self.site.protect(self.home.cut())

    def opened(self, by: str) -> Opened:
        site = self.site
        if by == "index key":
            index_key = derive_index_key(site.private_key, site.domain) if site.encrypted else b""
            return open_by_index(site.store, site.domain, index_key)
        facts, keys = read_domain(site.store), site.reader_keys()
        ledger = read_ledger(site.store, facts.owner, keys)
        return Container(site.store, read_history(site.store, facts), keys, site.encrypted, ledger)

    def report(self, by: str) -> Report:
        if by != "sample":
            return verify_all(self.opened(by), lambda *_: lambda _: None)
        turn = Turn(bytes(16))
        return verify_sample(
            self.opened(by), turn, NO_BUDGET, SystemClock(), lambda *_: lambda _: None
        ).report


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def trees(request: pytest.FixtureRequest) -> Trees:
    return Trees(bool(request.param))


@pytest.mark.parametrize("by", ["all keys", "index key", "sample"])
@pytest.mark.parametrize("key", [NAMES, CONTENT], ids=["names", "content"])
def test_any_byte_of_names_and_of_content_is_covered(trees: Trees, by: str, key: str) -> None:
    store = trees.site.store
    sound = store.get(key).data
    assert trees.report(by).findings == []
    for at in range(0, len(sound), -(-len(sound) // FLIPS)):
        data = bytearray(sound)
        data[at] ^= 0x10
        store.delete(key)
        store.put_new(key, bytes(data))
        found = {finding.key for finding in trees.report(by).findings if finding.needed}
        assert key in found, at
    store.delete(key)
    assert key in {finding.key for finding in trees.report(by).findings if finding.needed}


@pytest.mark.parametrize("by", ["all keys", "index key", "sample"])
def test_names_that_no_restore_takes_are_found_where_the_tree_is_whole_last(trees: Trees, by: str) -> None:
    trees.home.add(b"d0/a/below a file", file())
    trees.home.cut()
    for _ in range(2):
        trees.site.protect(trees.site.cut(not_whole=[trees.home.tree]))
    (finding,) = trees.report(by).findings
    assert finding.needed
    assert "tree 'home' at 1.4" in str(finding.error)
