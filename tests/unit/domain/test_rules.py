"""Rules of the format on history and images that a sound writer never breaks: each broken once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.faults import check_branch
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import History, read_history
from cdp_container.errors import DamagedObject
from cdp_container.format.domain import build_epoch_record, parse_epoch_record
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.format.place import NOWHERE, Place
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, write


@pytest.fixture
def site() -> Site:
    """Two cuts in epoch 1, the second of two segments, and one in epoch 2."""
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 20_000)
    site.begin_epoch()
    site.cut([write(disk, 0, b"first")])
    site.cut([write(disk, 0, b"second"), write(disk, 10_000, b"half")], segments=2)
    site.begin_epoch()
    site.cut([write(disk, 0, b"third")])
    return site


def disk_of(site: Site) -> bytes:
    (disk,) = site.images[Place(1, 1, 1)]
    return disk


def check_newest(site: Site) -> History:
    """Check everything that the newest cut is made of."""
    history = read_history(site.store)
    with closing(gather(site.store, history.domain, site.reader_keys(), history.everything())) as contents:
        check_branch(contents, history.branch_of(history.newest), history.origins())
    return history


def rewrite_record(site: Site, epoch: int, **changes: object) -> None:
    key = epoch_key(epoch)
    record = parse_epoch_record(site.store.get(key).data, key, site.domain)
    site.store.delete(key)
    site.store.put_new(key, build_epoch_record(replace(record, **changes)))  # type: ignore[arg-type] # see callers


def test_nothing_is_wrong_with_the_sample(site: Site) -> None:
    assert check_newest(site).newest == Place(2, 1, 1)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_cut_number_that_is_not_the_next_is_damage(site: Site, more: int) -> None:
    site._cut += more
    place = site.cut([write(disk_of(site), 0, b"fourth")])
    site.protect(place)
    with pytest.raises(DamagedObject, match=rf"{segment_key(2, 2)}.*cut 2 was due"):
        check_newest(site)


@pytest.mark.parametrize("more", [-1, 1])
def test_behind_what_is_proven_it_ends_the_history(site: Site, more: int) -> None:
    site._cut += more
    site.cut([write(disk_of(site), 0, b"fourth")])
    history = check_newest(site)
    assert history.newest == Place(2, 1, 1)
    assert any("cut 2 was due" in note for note in history.notes)


def test_an_epoch_begins_with_its_first_cut(site: Site) -> None:
    site.begin_epoch()
    site._cut = 1
    site.cut([write(disk_of(site), 0, b"fourth")])
    history = read_history(site.store)
    assert history.newest == Place(2, 1, 1)


def test_a_cut_begins_only_after_the_one_before_it_is_complete(site: Site) -> None:
    site.cut([write(disk_of(site), 0, b"never complete")], complete=False)
    place = site.cut([write(disk_of(site), 0, b"fourth")])
    assert read_history(site.store).newest == Place(2, 1, 1)
    site.protect(place)
    with pytest.raises(DamagedObject, match=rf"{segment_key(2, 3)}.*cut 2 was due"):
        check_newest(site)


@pytest.mark.parametrize(
    "changes",
    [{"end": Place(1, 1, 1)}, {"base": Place(1, 1, 1)}, {"end": NOWHERE}, {"base": NOWHERE}],
    ids=str,
)
def test_segments_repeat_base_and_end_of_their_epoch(site: Site, changes: dict[str, object]) -> None:
    rewrite_record(site, 2, **changes)
    site.protect(Place(2, 1, 1))
    with pytest.raises(DamagedObject):
        check_newest(site)


def test_segments_name_the_end_of_the_epoch_before_theirs_as_its_record_does() -> None:
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 20_000)
    site.begin_epoch()
    first = site.cut([write(disk, 0, b"first")])
    site.cut([write(disk, 0, b"on the side branch")])
    site.begin_epoch(base=first)
    site.cut([write(disk, 0, b"second")])
    check_newest(site)
    rewrite_record(site, 2, end=first)
    with pytest.raises(DamagedObject, match="another base or end"):
        check_newest(site)


@pytest.mark.parametrize(
    "base", [Place(1, 2, 2), Place(1, 1, 2), Place(1, 1, 3)], ids=["half a cut", "too far", "another cut"]
)
def test_a_base_ends_a_cut(base: Place) -> None:
    site = Site(MemoryStore(SystemClock()))
    disk = site.add_volume("disk", 20_000)
    site.begin_epoch()
    site.cut([write(disk, 0, b"first")])
    site.cut([write(disk, 0, b"second"), write(disk, 10_000, b"half")], segments=2)
    site._lines[base] = replace(site._lines[Place(1, 2, 3)], place=base)
    site.begin_epoch(base=base)
    site.protect(site.cut([write(disk, 0, b"third")]))
    with pytest.raises(DamagedObject, match=epoch_key(2)):
        check_newest(site)


def test_a_base_beyond_the_end_of_its_epoch_is_none(site: Site) -> None:
    history = read_history(site.store)
    with pytest.raises(DamagedObject, match="beyond its end"):
        history.branch_of(Place(1, 1, 4))
    with pytest.raises(DamagedObject, match="beyond its end"):
        history.branch_of(Place(1, 3, 3))


def test_an_epoch_whose_end_lies_in_an_older_one_has_no_segments(site: Site) -> None:
    site.begin_epoch()
    unproven = site.zombie([write(disk_of(site), 0, b"complete, sound, and of no account")])
    site.begin_epoch()
    history = check_newest(site)
    assert (history.newest, history.spans[3].end) == (Place(2, 1, 1), NOWHERE)
    assert history.everything() == {1: 3, 2: 1}
    site.cut([write(disk_of(site), 0, b"fourth")])
    history = check_newest(site)
    assert history.everything() == {1: 3, 2: 1, 4: 1}
    with pytest.raises(DamagedObject):
        history.branch_of(unproven)


def test_a_zombie_never_counts_whenever_it_appears(site: Site) -> None:
    site.zombie([write(disk_of(site), 0, b"late")])
    site.begin_epoch()
    assert check_newest(site).everything() == {1: 3, 2: 1}
    site.cut([write(disk_of(site), 0, b"fourth")])
    assert check_newest(site).everything() == {1: 3, 2: 1, 3: 1}
