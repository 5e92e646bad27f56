"""Volumes that are resized, removed and come again amid merged segments: every cut restores as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.domain.retention_policy import Retention
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from tests.containers import write
from tests.unit.collector.collecting_site import HOUR, CollectedSite

pytestmark = pytest.mark.slow

SIZE = 100_000


class Changing(CollectedSite):
    """Small cuts; at some of them a volume changes, whose first cut of that is kept in `changed`."""

    def __init__(self, encrypted: bool, keeps_all: bool) -> None:
        super().__init__(encrypted, seed=11, every_hours=3)
        if keeps_all:
            self.retention = Retention(None)
        self.add_disk("stays", SIZE)
        self.begin_epoch()
        self.changed: set[Place] = set()

    def quiet(self, cuts: int) -> None:
        """Quiet times: one small write to each volume at each cut."""
        for _ in range(cuts):
            self.time.sleep(20 * 60)
            offsets = [(disk, self.rng.randrange(0, size - 600) // 512 * 512) for disk, size in self.disks]
            self.cut([write(disk, offset, self.rng.randbytes(512)) for disk, offset in offsets])

    def change(self, disk: bytes, size: int | None) -> None:
        """Resize it, or remove it, by a cut that says nothing else: then one that writes."""
        self.disks = [(space, old) for space, old in self.disks if space != disk]
        if size is None:
            self.remove(disk)
        else:
            self.resize(disk, size)
            self.disks.append((disk, size))
        self.time.sleep(60)
        self.changed.add(self.cut([]))

    def live(self) -> bytes:
        """All changes, with quiet times before and after each; gives the volume of most of them."""
        disk = self.add_disk("changes", SIZE)
        self.quiet(9)
        self.cut([write(disk, SIZE - 3000, b"\xee" * 3000)])
        self.change(disk, SIZE // 2)  # what lay beyond is gone,
        self.quiet(2)
        self.change(disk, SIZE)  # and reads as zeros now
        self.quiet(5)
        self.cut([write(disk, SIZE - 2000, b"\xdd" * 1000)])
        self.change(disk, None)
        self.quiet(7)
        self.add_again(disk, "again", SIZE // 4)  # nothing of what it was is there
        self.disks.append((disk, SIZE // 4))
        self.quiet(5)
        self.change(disk, SIZE)
        self.quiet(9)
        self.protect(max(self.images))
        self.time.sleep(2 * HOUR)
        self.quiet(2)
        self.protect(sorted(self.images)[-2])
        return disk


@pytest.mark.parametrize(("encrypted", "keeps_all"), [(False, False), (True, True)])
def test_changes_within_merged_neighbours(tmp_path: Path, encrypted: bool, keeps_all: bool) -> None:
    site = Changing(encrypted, keeps_all)
    site.live()
    passed = site.run_pass(tmp_path)
    assert passed.found is not None
    victims = set(passed.found.chosen.victims)
    assert {segment_key(place.epoch, place.seq) for place in site.changed} <= victims, "all in packs"
    assert passed.packing.packs
    assert bool(site.gone) is not keeps_all
    site.sound(tmp_path / "out")
    # And once more, packs with packs; those before the changes may be retired by now.
    site.quiet(20)
    site.protect(max(site.images))
    site.time.sleep(2 * HOUR)
    site.quiet(2)
    site.run_pass(tmp_path)
    site.sound(tmp_path / "out", most=8)
