"""A container is copied in any order, amid whole passes: who reads the copy never loses a point."""

from __future__ import annotations

import contextlib
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from cdp_container.domain import collecting
from cdp_container.errors import CollectionStopped, NotFound, StoreUnavailable
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Blob
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Effects
from tests.unit.rehydrate.test_restore import run

pytestmark = pytest.mark.slow


class Copied:
    """A site, and its copy, which is behind by whatever `rng` leaves out; `deletes`: whether it loses any."""

    def __init__(self, seed: int, deletes: bool = True) -> None:
        self.rng, self.deletes = Random(seed), deletes
        self.site = CollectedSite(every_hours=2, seed=seed)
        self.site.add_disk("disk", 1 << 18)
        self.site.begin_epoch()
        self.site.busy(20)
        self.copy = MemoryStore(self.site.time)
        self.site.replicas = [self.copy]
        self.newest = Place(0, 0, 0)
        sleep = self.site.time.sleep

        def lagging(seconds: float) -> None:
            sleep(seconds)
            self.step(0.3)

        self.site.time.sleep = lagging  # type: ignore[method-assign]  # the copy goes on while one waits

    def step(self, share: float) -> None:
        """Some of what is behind comes, in any order; then somebody reads the copy."""
        home = {found.key: found.tag for found in self.site.watched.list("")}
        there = {found.key: found.tag for found in self.copy.list("")}
        behind = [key for key in sorted({*home, *there}) if home.get(key) != there.get(key)]
        self.rng.shuffle(behind)
        for key in behind:
            if self.rng.random() > share:
                continue
            if key not in home:
                if self.deletes:
                    self.copy.delete(key)
            elif key not in there:
                self.copy.put_new(key, self.site.watched.get(key).data)
            elif key.startswith("domain/"):
                self.copy.put_if(key, self.site.watched.get(key).data, there[key])

    def look(self) -> None:
        """The newest point there is no older than it was."""
        newest = open_container(self.copy, Secret(), replica=True).history.newest
        assert newest >= self.newest, "a point was lost"
        self.newest = newest

    def run_pass(self, directory: Path) -> None:
        def between(what: str) -> None:
            self.step(0.3)
            self.look()

        self.site.run_pass(directory, effects=Effects(before=between))

    def restores(self, directory: Path) -> None:
        container = open_container(self.copy, Secret(), replica=True)
        with closing(container.gather(scope_of(container.history, Choice()))) as contents:
            plan = plan_restore(container, contents, Choice(), ["disk"])
            [volume] = plan.volumes
            source = Source(container.store, container.keys, contents)
            assert run(source, volume, directory) == self.site.images[plan.cut.place][volume.volume.space]


def live(copied: Copied, directory: Path) -> None:
    """A day of passes, with writes between them."""
    copied.step(1)
    copied.look()
    assert copied.newest == max(copied.site.images)
    for _ in range(4):
        copied.site.time.sleep(2 * HOUR)
        copied.site.busy(8)
        copied.step(1)
        copied.run_pass(directory / "a")
        copied.restores(directory)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("deletes", [True, False])
def test_who_reads_a_copy_never_loses_a_point(tmp_path: Path, seed: int, deletes: bool) -> None:
    copied = Copied(seed, deletes)
    live(copied, tmp_path)
    assert copied.site.owner.plan is None
    assert len(copied.site.gone) > 10
    copied.site.sound(tmp_path / "out", most=4)


def test_a_copy_that_is_cut_off_stops_the_pass_before_anything_goes(tmp_path: Path) -> None:
    copied = Copied(1)
    copied.step(1)
    copied.step = lambda share: None  # type: ignore[method-assign]  # the line is cut
    before = {found.key for found in copied.site.store.list("log/")}
    written = []
    for _ in range(3):
        with pytest.raises(CollectionStopped, match="has not got"):
            copied.run_pass(tmp_path)
        written.append({found.key for found in copied.site.store.list("packs/")})
    assert before == {found.key for found in copied.site.store.list("log/")}
    assert written[0], "the line may have been cut just then"
    assert written[0] == written[1] == written[2], "a pass each hour would fill the container"


def test_a_segment_that_is_stuck_on_its_way_stops_every_pass_before_anything_goes(tmp_path: Path) -> None:
    """All else comes: by the new ledger the copy would have no point that is whole, and no old one either."""
    copied = Copied(1)
    home, copy = copied.site.watched, copied.copy
    copied.step(1)
    stuck = segment_key(1, copied.site.owner.protected.seq)
    copy.delete(stuck)
    copied.newest = open_container(copy, Secret(), replica=True).history.newest
    step, copied.deletes = copied.step, False

    def all_but_one(share: float) -> None:
        step(1)
        with contextlib.suppress(NotFound):
            copy.delete(stuck)

    copied.step = all_but_one  # type: ignore[method-assign]  # of this copy
    copied.site.time.sleep(3 * HOUR)
    for _ in range(2):
        with pytest.raises(CollectionStopped, match=f"has not got {stuck} yet"):
            copied.run_pass(tmp_path)
        copied.look()
    assert copied.site.owner.ledger is None
    assert not list(home.list("packs/")), "nor is anything written that comes to nothing"
    copied.step = step  # type: ignore[method-assign]  # it comes at last
    copied.run_pass(tmp_path)
    copied.step(1)
    copied.look()
    assert copied.site.owner.ledger is not None


def test_a_copy_that_cannot_be_asked_or_lags_behind_the_last_pass_has_nothing_written(tmp_path: Path) -> None:
    class Away(MemoryStore):
        def get(self, key: str) -> Blob:
            raise StoreUnavailable(f"get {key}", "no route to host")

    copied = Copied(1)
    copied.step = lambda share: None  # type: ignore[method-assign]  # nothing comes
    copied.look = lambda: None  # type: ignore[method-assign]  # so there is nothing to read
    copied.site.replicas = [Away(copied.site.time)]
    with pytest.raises(StoreUnavailable):
        copied.run_pass(tmp_path)
    copied.site.replicas = [copied.copy]
    with pytest.raises(CollectionStopped, match="does not name the ledger in force"):
        copied.run_pass(tmp_path)
    assert not list(copied.site.store.list("packs/"))


def test_control_a_pass_that_does_not_wait_for_the_owner_there_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_wait_for_owners", lambda collector, plan: None)
    caught = 0
    for seed in range(4):
        try:
            directory = tmp_path / str(seed)
            directory.mkdir()
            live(Copied(seed), directory)
        except AssertionError as error:
            caught += "a point was lost" in str(error)
    assert caught
