"""When zones meet again: the losing one's `domain/owner` in the place of the winner's; who counts then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.history import read_domain, read_history
from cdp_container.errors import MissingObject
from cdp_container.format.domain import build_epoch_record, parse_epoch_record
from cdp_container.format.keys import OWNER_KEY, epoch_key
from cdp_container.store.api import Blob
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, busy_container


@pytest.fixture
def site() -> Site:
    return busy_container(MemoryStore(SystemClock()))


def test_the_higher_epoch_counts_and_its_newest_cut_is_in_doubt(site: Site) -> None:
    site.write_owner(epoch=2, previous=1)
    history = read_history(site.store)
    assert (history.newest.epoch, history.newest.cut) == (6, 2)
    assert (history.owner.epoch, history.owner.name) == (6, site.owner.name)
    assert any("the higher epoch counts" in note for note in history.notes)
    assert isinstance(history.in_doubt, MissingObject)
    assert "--at" in history.in_doubt.hint


def test_an_epoch_that_came_to_nothing_does_not_count(site: Site) -> None:
    record = parse_epoch_record(site.store.get(epoch_key(6)).data, "k", None)
    site.store.put_new(epoch_key(1006), build_epoch_record(replace(record, epoch=1006, previous=6)))
    history = read_history(site.store)
    assert (history.newest.epoch, history.in_doubt) == (6, None)


def test_an_epoch_that_was_claimed_while_we_looked(site: Site) -> None:
    """The reader saw the owner before, and the record after."""
    site.write_owner(epoch=2, previous=1)
    before = site.store.get(OWNER_KEY)
    site.write_owner(epoch=6, previous=2)

    class Late(MemoryStore):
        first = True

        def get(self, key: str) -> Blob:
            if key == OWNER_KEY and self.first:
                self.first = False
                return before
            return super().get(key)

    late = Late(SystemClock())
    for found in site.store.list(""):
        late.put_new(found.key, site.store.get(found.key).data)
    facts = read_domain(late)
    assert (facts.owner.epoch, facts.doubt, facts.notes) == (6, None, ())
