"""Whole passes over a container: whatever ends one, every retained cut restores byte for byte afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.collector.pass_types import Wishes
from cdp_container.domain.retention_policy import Retention
from cdp_container.errors import CdpError, CollectionStopped, MissingObject, NewerFormat, StoreUnavailable
from cdp_container.format.domain import OwnerState
from cdp_container.format.head import open_head
from cdp_container.format.keys import gc_key, segment_key
from cdp_container.format.packed import parse_packed_epoch
from cdp_container.store.api import Found
from tests.containers import write
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Crash, Effects, StopAt

pytestmark = pytest.mark.slow


def a_site(encrypted: bool = False, seed: int = 0, cuts: int = 30) -> CollectedSite:
    """Ten hours of writes on two disks, of which four are kept."""
    site = CollectedSite(encrypted, seed)
    site.add_disk("disk", 300_000)
    site.add_disk("log", 60_000)
    site.begin_epoch()
    site.busy(cuts)
    return site


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_pass_frees_what_no_retained_cut_shows(tmp_path: Path, encrypted: bool) -> None:
    site = a_site(encrypted)
    before = site.stored_bytes
    passed = site.run_pass(tmp_path)
    assert passed.finished is not None
    assert passed.finished.kept == 0
    assert len(site.gone) > 10
    assert site.stored_bytes < before
    site.sound(tmp_path / "out")
    assert site.owner.plan is None
    assert site.owner.ledger is not None


@pytest.mark.parametrize("seed", range(3))
def test_passes_amid_a_busy_life(tmp_path: Path, seed: int) -> None:
    """Epochs, side branches, resizes, volumes that come and go; a pass every few hours."""
    site = a_site(encrypted=seed == 0, seed=seed, cuts=10)
    collected = 0
    for number in range(8):
        if number == 2:
            site.resize(site.disks[0][0], 200_000)
            site.disks[0] = (site.disks[0][0], 200_000)
        if number == 3:
            site.resize(site.disks[0][0], 350_000)
            site.add_disk("spare", 50_000)
        if number == 4:
            site.begin_epoch(base=sorted(site.images)[-2])
        if number == 5:
            space, _ = site.disks.pop(1)
            site.remove(space)
        if number == 6:
            site.begin_epoch()
        site.busy(6)
        passed = site.run_pass(tmp_path, Wishes(private_key=site.private_key if number % 2 else None))
        collected += passed.finished.deleted if passed.finished is not None else 0
        site.sound(tmp_path / "out", most=4)
    site.sound(tmp_path / "out")
    assert collected > 20
    assert len(site.gone) > 20


def test_killed_at_any_step_and_the_next_pass_is_whole(tmp_path: Path) -> None:
    whole = Effects()
    a_site().run_pass(tmp_path / "whole", effects=whole)
    assert whole.count > 20
    ends = [half / 2 for half in range(2 * whole.count)]
    for at in [*ends[:8:2], *ends[8:-16:9], *ends[-16:]]:
        site, directory = a_site(cuts=20), tmp_path / f"at-{at}"
        with contextlib.suppress(Crash):
            site.run_pass(directory, effects=Effects(crash_at=at))
        executed = site.owner.ledger is not None
        if not executed:
            site.sound(directory / "out", most=2)
        site.time.sleep(2 * HOUR)
        site.busy(2)
        site.run_pass(directory)
        assert site.owner.plan is None
        retired = {place for place in site.images if site.is_retired(place)}
        assert retired
        site.sound(directory / "out", retired, most=3)


@pytest.mark.parametrize("encrypted", [False, True])
def test_passes_come_to_rest_where_nothing_happens(tmp_path: Path, encrypted: bool) -> None:
    """Nobody writes: what is copied once is not copied again, with the key or without."""
    site = a_site(encrypted)
    for _ in range(4):
        site.run_pass(tmp_path)
        site.time.sleep(2 * HOUR)
        site.protect(max(site.images))
    passed = site.run_pass(tmp_path)
    assert passed.why_not == "there is nothing to collect"
    site.sound(tmp_path / "out", most=3)


def test_a_hold_on_everything_and_one_on_a_cut(tmp_path: Path) -> None:
    site = a_site()
    site.hold("e" * 32, None)
    assert site.run_pass(tmp_path).why_not == "a hold on everything stands"
    old = min(site.images)
    site.hold("e" * 32, old)
    site.run_pass(tmp_path)
    assert old not in site.gone
    site.sound(tmp_path / "out", most=3)
    branch = {segment_key(old.epoch, seq) for seq in range(1, old.seq + 1)}
    assert branch <= {found.key for found in site.store.list("log/")}, "its reader may look for any of them"
    site.unhold()
    site.time.sleep(2 * HOUR)
    site.busy(1)
    site.run_pass(tmp_path)
    assert old in site.gone
    assert not branch & {found.key for found in site.store.list("log/")}


@pytest.mark.parametrize("at_change", [0, 1, 2])
def test_a_reader_that_comes_amid_a_pass_reads_on(tmp_path: Path, at_change: int) -> None:
    """It holds everything, reads the owner, and goes on by the ledger that it found."""
    site = a_site()
    changes: list[str] = []
    needs: set[str] = set()

    def before(what: str) -> None:
        if what == "change":
            changes.append(what)
            if len(changes) == at_change + 1:
                site.hold("f" * 32, None)
                if site.owner.ledger is None:
                    needs.update(found.key for found in site.store.list("log/"))

    site.run_pass(tmp_path, effects=Effects(before=before))
    assert needs <= {found.key for found in site.store.list("log/")}
    site.sound(tmp_path / "out", most=3)
    if at_change < 2:
        assert needs
        site.unhold()
        site.time.sleep(2 * HOUR)
        site.busy(1)
        site.run_pass(tmp_path)
        assert not needs <= {found.key for found in site.store.list("log/")}, (
            "garbage goes once nobody holds it"
        )
        site.sound(tmp_path / "out", most=3)


def test_a_listing_that_omits_keys_costs_nothing_and_a_gap_ends_the_pass(tmp_path: Path) -> None:
    site = a_site()
    whole = site.watched.list
    omitted = {segment_key(1, seq) for seq in (3, 7, 8, 20)}

    def partial(prefix: str, start_after: str = "") -> Iterator[Found]:
        return (found for found in whole(prefix, start_after) if found.key not in omitted)

    site.watched.list = partial  # type: ignore[method-assign]  # a store that is not quite consistent
    site.run_pass(tmp_path)
    site.watched.list = whole  # type: ignore[method-assign]  # and is again
    site.sound(tmp_path / "out", most=4)
    gap = a_site(seed=1)
    gap.watched.delete(segment_key(1, 5))
    with pytest.raises(MissingObject):
        gap.run_pass(tmp_path / "gap")
    assert gap.owner.ledger is None


def test_a_listing_that_fails_midway_ends_the_pass(tmp_path: Path) -> None:
    site = a_site()
    whole = site.watched.list

    def failing(prefix: str, start_after: str = "") -> Iterator[Found]:
        if prefix == "log/":
            yield from list(whole(prefix, start_after))[:5]
            raise StoreUnavailable("list log/", "connection reset")
        yield from whole(prefix, start_after)

    site.watched.list = failing  # type: ignore[method-assign]  # the network
    with pytest.raises(StoreUnavailable):
        site.run_pass(tmp_path)
    assert site.owner.ledger is None


def test_deletes_that_are_lost_are_done_by_the_next_pass(tmp_path: Path) -> None:
    site = a_site()
    lost = site.watched.delete

    def delete(key: str) -> None:
        if not key.startswith("log/"):
            lost(key)

    site.watched.delete = delete  # type: ignore[method-assign]  # it says that it did
    with pytest.raises(CollectionStopped, match="still has it"):
        site.run_pass(tmp_path)
    site.watched.delete = lost  # type: ignore[method-assign]  # and now it does
    assert site.owner.plan is not None
    retired = {place for place in site.images if site.is_retired(place)}
    site.sound(tmp_path / "out", retired, most=3)
    passed = site.run_pass(tmp_path)
    assert passed.finished_before is not None
    assert passed.finished_before.deleted > 5


def test_clocks_that_differ_and_a_policy_that_nobody_knows_end_the_pass(tmp_path: Path) -> None:
    site = a_site()
    site.seen_ns = site.time.wall_ns() + HOUR * 10**9
    with pytest.raises(CollectionStopped, match="went back"):
        site.run_pass(tmp_path)
    site.seen_ns = 0
    config = replace(site._config(), retention={**site._config().retention, "yearly_seconds": 5})
    site._config = lambda: config  # type: ignore[method-assign]  # a later release's
    site.protect(max(site.images))
    with pytest.raises(NewerFormat, match="yearly"):
        site.run_pass(tmp_path)
    assert site.owner.ledger is None


def test_everything_is_kept_where_there_is_no_policy(tmp_path: Path) -> None:
    site = a_site()
    site.retention = Retention(None)
    site.protect(max(site.images))
    before = site.stored_bytes
    site.run_pass(tmp_path)
    assert not site.gone
    site.sound(tmp_path / "out", most=5)
    assert site.stored_bytes < 1.3 * before


def test_an_executing_plan_that_another_site_finishes(tmp_path: Path) -> None:
    site = a_site()
    with contextlib.suppress(Crash):
        site.run_pass(tmp_path, effects=StopAt("delete log/"))
    assert site.owner.plan is not None
    retired = {place for place in site.images if site.is_retired(place)}
    site.begin_epoch()
    site.write_owner(site="site-b")
    passed = site.run_pass(tmp_path / "other", site="site-b")
    assert passed.finished_before is not None
    assert passed.finished_before.deleted > 5
    site.sound(tmp_path / "out", retired | site.gone, most=3)
    assert site.run_pass(tmp_path).why_not == "site 'site-b' has the domain"
    site.write_owner(state=OwnerState.RELEASED, released_to="site-c")
    assert "released to site 'site-c'" in site.run_pass(tmp_path, site="site-b").why_not


def test_many_restarts_leave_few_objects(tmp_path: Path) -> None:
    """Each epoch's last segment stays, as others name it; all else is merged."""
    site = CollectedSite()
    disk = site.add_disk("disk", 100_000)
    for number in range(60):
        site.begin_epoch()
        for _ in range(3):
            site.time.sleep(600)
            site.cut([write(disk, number % 8 * 8192, site.rng.randbytes(8192))])
        site.protect(max(site.images))
    before = len(list(site.store.list("log/")))
    site.run_pass(tmp_path)
    site.sound(tmp_path / "out", most=4)
    assert before == 180
    assert len(list(site.store.list("log/"))) < 90


def test_packs_remember_epochs_whose_first_segment_is_gone(tmp_path: Path) -> None:
    site = a_site()
    site.begin_epoch()
    site.time.sleep(6 * HOUR)
    site.busy(20)
    site.run_pass(tmp_path)
    listed = {found.key for found in site.store.list("log/")}
    told = set()
    for found in site.store.list("packs/"):
        if "ledger" not in found.key:
            data = site.store.get(found.key).data
            head = open_head(data, found.key, site.domain, site.reader_keys())
            told |= {
                parse_packed_epoch(record, site.domain, found.key).epoch
                for record in head.index.iter_records()
                if record.name == "epoch"
            }
    assert told == {epoch for epoch in (1, 2) if segment_key(epoch, 1) not in listed}
    assert told


class Amid(Effects):
    """Before one effect of a pass somebody else does something."""

    def __init__(self, at: int, other: Callable[[], None]) -> None:
        super().__init__(before=self._look)
        self._at, self._other = at, other

    def _look(self, what: str) -> None:
        if self.count == self._at + 1:
            self._other()


@pytest.mark.parametrize("at", [2, 3, 6, 7, 8, 9, 10, 13, 16])
def test_two_collectors_with_journal_directories_of_their_own(tmp_path: Path, at: int) -> None:
    """No lock keeps them apart, and each remembers what it saw: the second comes whole, amid the first."""
    site = a_site(cuts=16)
    site.run_pass(tmp_path / "b")
    site.busy(12)
    site.run_pass(tmp_path / "a")
    site.time.sleep(2 * HOUR)
    site.busy(8)
    came: list[str] = []

    def other() -> None:
        came.append("came")
        with contextlib.suppress(CdpError):
            site.run_pass(tmp_path / "b")
        site.watched.effects = effects

    effects = Amid(at, other)
    with contextlib.suppress(CdpError):
        site.run_pass(tmp_path / "a", effects=effects)
    assert came
    retired = {place for place in site.images if site.is_retired(place)}
    site.sound(tmp_path / "out", retired, most=4)
    for name in ("b", "a"):
        site.time.sleep(2 * HOUR)
        site.busy(2)
        site.run_pass(tmp_path / name)
    assert site.owner.plan is None
    retired = {place for place in site.images if site.is_retired(place)}
    site.sound(tmp_path / "out", retired, most=4)


def test_a_plan_that_is_gone_while_it_executes_ends_and_what_it_named_goes_later(tmp_path: Path) -> None:
    """A copy was taken over to which the plan never came."""
    site = CollectedSite(every_hours=2, seed=1)
    site.add_disk("disk", 1 << 18)
    site.begin_epoch()
    site.busy(20)
    site.time.sleep(2 * HOUR)
    with pytest.raises(Crash):
        site.run_pass(tmp_path, effects=StopAt("delete log/"))
    plan = site.owner.plan
    assert plan is not None
    for found in list(site.store.list("domain/gc/")):
        site.store.delete(found.key)
    before = len(list(site.store.list("log/")))
    passed = site.run_pass(tmp_path)
    assert passed.finished_before is not None
    assert passed.finished_before.lost == gc_key(plan.epoch, plan.n)
    assert f"{gc_key(plan.epoch, plan.n)} was to be finished, and is gone" in "\n".join(site.said)
    assert site.owner.plan is None
    assert len(list(site.store.list("log/"))) < before
    retired = {place for place in site.images if site.is_retired(place)}
    site.sound(tmp_path / "out", retired, most=4)
