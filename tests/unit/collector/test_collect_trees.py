"""File trees in a container that is collected: every retained cut restores, whatever names it has."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from cdp_agent.collector.pass_types import Wishes
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
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
