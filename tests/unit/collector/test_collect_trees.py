"""File trees in a container that is collected: every retained cut restores, whatever names it has."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_agent.collector import live_names, live_records
from cdp_agent.collector.pass_types import Wishes
from cdp_agent.collector.remembered import Tables
from cdp_container.errors import CdpError
from cdp_container.extents.intervals import Flags
from cdp_container.extents.tables import Table
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.format.records import make_record
from tests.containers import write
from tests.trees import State, Tree, directory
from tests.unit.collector.collecting_site import CollectedSite
from tests.unit.rehydrate.trees import assert_same, restore

pytestmark = pytest.mark.slow


class Home:
    """A tree that is changed at random, and what it was at each cut."""

    def __init__(self, site: CollectedSite, seed: int) -> None:
        self.site = site
        self.rng = random.Random(seed)
        self.tree = Tree(site)
        self.states: dict[Place, State] = {}
        for number in range(3):
            self.tree.add(b"d%d" % number, directory())

    def busy(self, cuts: int) -> None:
        for _ in range(cuts):
            self.site.time.sleep(20 * 60)
            for _ in range(self.rng.choice((0, 1, 3, 6))):
                self._change()
            skew = [SkewedFile(self.tree.tree, b"d0/f0", 1, 2)] if self.rng.random() < 0.3 else []
            place = self.tree.cut(skew=skew)
            self.states[place] = self.tree.at[place]
            disk, _ = self.site.disks[0]
            of_guests = self.site.cut([write(disk, 512 * self.rng.randrange(90), self.rng.randbytes(512))])
            self.states[of_guests] = self.states[place]
        self.site.protect(max(self.site.images))

    def _change(self) -> None:
        rng, tree = self.rng, self.tree
        path = b"d%d/f%d" % (rng.randrange(3), rng.randrange(6))
        if path not in tree.names:
            tree.file(path, rng.randbytes(rng.choice((0, 10, 5000, 40_000))))
            return
        kind = rng.choice(("write", "write", "remove", "rename", "link"))
        other = b"d%d/f%d" % (rng.randrange(3), rng.randrange(6))
        if kind == "remove":
            tree.remove(path)
        elif kind == "write" and tree.names[path].space is not None:
            tree.write(path, rng.randbytes(rng.choice((10, 5000, 40_000))))
        elif other not in tree.names and kind == "rename":
            tree.rename(path, other)
        elif other not in tree.names and kind == "link":
            tree.link(path, other)

    def sound(self, folder: Path) -> int:
        """Every cut that is not retired has the tree that it had; gives how many there are."""
        kept = [place for place in self.states if place not in self.site.gone]
        for place in kept:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            restore(self.site, place, folder)
            assert_same(folder, self.states[place])
        return len(kept)


@pytest.mark.parametrize("seed", range(2))
def test_trees_through_pass_after_pass(tmp_path: Path, seed: int) -> None:
    site = CollectedSite(encrypted=seed == 1, seed=seed)
    site.add_disk("disk", 60_000)
    site.begin_epoch()
    home = Home(site, seed)
    deleted = 0
    for number in range(4):
        home.busy(12)
        passed = site.run_pass(tmp_path, Wishes(private_key=site.private_key if number % 2 else None))
        deleted += passed.finished.deleted if passed.finished is not None else 0
        assert home.sound(tmp_path / "out") > 3
        site.sound(tmp_path / "volumes", most=3)
    assert deleted > 20
    assert len(site.gone) > 10


def a_home(seed: int = 3) -> Home:
    site = CollectedSite(seed=seed)
    site.add_disk("disk", 60_000)
    site.begin_epoch()
    return Home(site, seed)


def shrunk_and_grown(home: Home) -> None:
    """What was beyond the end of a file is kept for a marker; now there is nothing, as far as it reaches."""
    tree = home.tree
    data = home.rng.randbytes(8000)
    name = tree.file(b"log", data)
    space = name.space
    assert space is not None
    place = tree.cut(marker="long ago")
    home.states[place] = tree.at[place]
    home.busy(2)
    home.site.say(make_record("space=", space, {"size_bytes": 10}))
    tree.contents[space] = data[:10]
    tree.add(b"log", name._replace(size_bytes=10))
    home.busy(2)
    tree.contents[space] = data[:10] + bytes(4000)
    tree.add(b"log", name._replace(size_bytes=4010))
    home.busy(2)


def is_lost(home: Home, tmp_path: Path) -> bool:
    """Whether passes cost anything."""
    try:
        for _ in range(4):
            home.busy(12)
            home.site.run_pass(tmp_path)
            home.sound(tmp_path / "out")
    except (AssertionError, CdpError):
        return True
    return False


def test_what_a_file_lost_stays_lost_while_it_is_kept_for_an_older_cut(tmp_path: Path) -> None:
    home = a_home()
    shrunk_and_grown(home)
    assert not is_lost(home, tmp_path)


def all_covers_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a file got shorter is dropped while what was beyond is there."""

    def idle(tables: Tables) -> set[tuple[int, int]]:
        covers = tables.runs[tables.runs["count"] == 0]
        return set(zip(covers["object"].tolist(), covers["first"].tolist(), strict=True))

    monkeypatch.setattr(live_records, "idle_covers", idle)


def names_of(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Flags]) -> None:
    real = live_names._is_live
    monkeypatch.setattr(live_names, "_is_live", lambda *given: change(real, *given))


def across_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a path only what was said last of all."""
    names_of(monkeypatch, lambda real, names, kinds, at, counted: real(names, kinds, at * 0, counted))


def without_the_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a name is gone is dropped while it is there in older cuts."""
    names_of(monkeypatch, lambda real, names, *given: real(names, *given) & ~names["gone"])


def the_first_instead_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a path what an interval said first."""

    def first(real: Callable[..., Flags], names: Table, *given: Table) -> Flags:
        turned = names.copy()
        for column in ("epoch", "cut", "seq"):
            turned[column] = names[column].max() - names[column]
        return real(turned, *given)

    names_of(monkeypatch, first)


def parted_by_half_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are taken for one another."""

    def half(real: Callable[..., Flags], names: Table, *given: Table) -> Flags:
        alike = names.copy()
        alike["low"], alike["high"] = names["low"] % 8, 0
        return real(alike, *given)

    names_of(monkeypatch, half)


FAULTS = [
    all_covers_idle,
    across_intervals,
    without_the_gone,
    the_first_instead_of_the_last,
    parted_by_half_a_digest,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_records_costs_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    home = a_home()
    shrunk_and_grown(home)
    fault(monkeypatch)
    assert is_lost(home, tmp_path)


def test_files_that_came_and_went_leave_nothing(tmp_path: Path) -> None:
    """Neither that their names are gone nor that their contents are, once no cut is kept that had them."""
    site = CollectedSite(seed=5)
    site.add_disk("disk", 60_000)
    site.begin_epoch()
    home = Home(site, 5)
    counts = []
    for _ in range(6):
        for number in range(20):
            path = b"d0/temporary-%d" % len(home.states)
            home.tree.file(path, site.rng.randbytes(3000))
            home.busy(1)
            home.tree.remove(path)
            if number % 4 == 0:
                home.busy(1)
        found = site.run_pass(tmp_path).found
        assert found is not None
        counts.append(int(found.alive.objects["live_records"].sum()))
        home.sound(tmp_path / "out")
    assert counts[-1] < counts[1] * 1.5, counts
