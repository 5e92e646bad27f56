"""Restores while a collector works: what is held is read to its end, and what is not is looked for anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from cdp_container.domain import holding
from cdp_container.domain import verifying as verification
from cdp_container.domain.holding import Holding
from cdp_container.errors import CdpError, HoldLost, MissingObject
from cdp_container.extents import resolve
from cdp_container.format.domain import ObjectName
from cdp_container.format.holds import Hold
from cdp_container.format.index import Run as LedgerRun
from cdp_container.format.keys import segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import Place
from cdp_container.format.preamble import NO_DIGEST
from cdp_container.store.api import Blob
from cdp_container.store.directory import DirectoryStore
from rehydrate import keeper as keeping
from rehydrate import plan as planning
from rehydrate.anew import ANEW_MAX, read_until_found
from rehydrate.keeper import Keeper
from rehydrate.resume import read_progress
from tests.containers import Site, in_force, write
from tests.rosters import give_roster, holds_in
from tests.unit.domain.holding_play import Now, container, reader
from tests.unit.rehydrate.conftest import Run
from tests.waiting import wait_until

SIZE: Final = 256 << 10
PAGE: Final = 4096
ANEW: Final = "collected meanwhile, and is looked for anew"
Hook = Callable[[], None]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows of few requests, and a note of each request that is durable before the next."""
    monkeypatch.setattr(resolve, "SLOT_BYTES", 16 << 10)
    monkeypatch.setattr(resolve, "WINDOW_EXTENTS_MAX", 1)
    monkeypatch.setattr(planning, "FETCH_BYTES_MAX", 1)
    monkeypatch.setattr(keeping, "KEEP_BYTES", 1)
    real = Keeper.keep

    def keep(self: Keeper, upto: int, window: str, fetches: int) -> None:
        real(self, upto, window, fetches)
        assert self._last is not None
        self._last.result()

    monkeypatch.setattr(Keeper, "keep", keep)


@dataclass
class Story:
    """A volume of four cuts, each over a page of the one before; every restore is of the second one.

    `at_fetch`: what happens before the so-manieth fetch of frames of a restore; `fetches` counts them.
    """

    run: Run
    site: Site
    place: Path
    target: Path
    disk: bytes
    at_fetch: dict[int, Hook] = field(default_factory=dict)
    fetches: int = 0

    def restore(self, *options: object) -> tuple[int, str, str]:
        self.fetches = 0
        return self.run("restore", self.place, "--target", self.target, "--at", "1.2", *options)

    def is_restored(self) -> bool:
        assert not self.target.with_name("disk.raw.damage.json").exists()
        return self.target.read_bytes() == self.site.images[Place(1, 2, 2)][self.disk]

    def fetched(self) -> None:
        self.fetches += 1
        hook = self.at_fetch.pop(self.fetches, None)
        if hook is not None:
            hook()

    # --- the roster, and the collector -----------------------------------------------------------

    @property
    def holds(self) -> dict[str, Hold]:
        return holds_in(self.site.store, self.site.domain)

    def give_roster(self) -> None:
        give_roster(self.site.store, self.site.domain)

    def retire(self) -> None:
        """A collector that saw no hold retires the second cut. What that alone needs stays for the moment."""
        self.site.write_ledger([LedgerRun(RunKind.CUTS_RETIRED, 1, 2, 2, NO_DIGEST)])

    def collect(self, retires: bool = False) -> None:
        """The first two segments go into a pack, which keeps the second cut or not, and are deleted."""
        pack = self.site.pack(1, 1, 2, cut_records=not retires)
        self.site.write_ledger([self.site.run(1, 1, 2), in_force(pack)])
        for seq in (1, 2):
            self.site.store.delete(segment_key(1, seq))

    def interrupt(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def story(run: Run, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    site = Site(DirectoryStore(place))
    disk = site.add_volume("disk", SIZE)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(SIZE))])
    for _ in range(3):
        site.protect(site.cut([write(disk, SIZE - PAGE, site.rng.randbytes(PAGE))]))
    story = Story(run, site, place, out / "disk.raw", disk)
    real = DirectoryStore.get_range

    def get_range(store: DirectoryStore, key: str, start: int, length: int) -> bytes:
        if start > 0 and length > PAGE // 2 and key.split("/")[0] in ("log", "packs"):
            story.fetched()
        return real(store, key, start, length)

    monkeypatch.setattr(DirectoryStore, "get_range", get_range)
    yield story
    assert not story.at_fetch, "nothing came to it"


@pytest.fixture
def held(story: Story) -> Story:
    story.give_roster()
    return story


# --- nothing is held --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--on-damage", "map")])
def test_what_is_collected_under_an_unheld_restore_is_found_in_its_pack(
    story: Story, options: tuple[str, ...]
) -> None:
    story.at_fetch[3] = story.collect
    code, _, stderr = story.restore(*options)
    assert code == 0, stderr
    assert story.is_restored()
    assert stderr.count("unheld:") == 1
    assert stderr.count(ANEW) == 1


@pytest.mark.parametrize("options", [(), ("--on-damage", "map")])
def test_a_cut_that_is_gone_is_said_to_be(story: Story, options: tuple[str, ...]) -> None:
    story.at_fetch[3] = lambda: story.collect(retires=True)
    code, stdout, stderr = story.restore(*options)
    assert (code, stdout) == (13, "")
    assert "collected while it was read" in stderr
    assert not story.target.exists()


def test_what_is_lost_and_not_collected_is_lost(story: Story) -> None:
    story.at_fetch[3] = lambda: story.site.store.delete(segment_key(1, 1))
    code, _, stderr = story.restore()
    assert code == 21
    assert ANEW not in stderr


def test_what_the_ledger_in_force_misses_too_is_lost(story: Story) -> None:
    def lose() -> None:
        story.site.store.delete(segment_key(1, 1))
        story.site.write_ledger([])

    story.at_fetch[3] = lose
    code, _, stderr = story.restore()
    assert code == 21
    assert stderr.count(ANEW) == 1


class Worker:
    """Meets the same error again and again."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.firsts: list[bool] = []

    def __call__(self, is_first: bool) -> None:
        self.firsts.append(is_first)
        raise self.error


@pytest.mark.parametrize("error", [HoldLost("hold", "gone"), MissingObject("log/1", "gone")])
def test_a_collector_that_never_stands_still_ends_it(error: CdpError) -> None:
    told: list[str] = []
    clock = Now()
    work = Worker(error)
    with reader(container(clock), clock, told) as holding, pytest.raises(type(error)):
        read_until_found(work, holding, lambda: True, told.append)
    assert work.firsts == [True] + [False] * (ANEW_MAX - 1)
    assert len(told) == ANEW_MAX - 1


# --- under a hold -----------------------------------------------------------------------------------------


def test_one_hold_first_of_everything_then_of_the_cut_and_none_at_the_end(
    held: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Hold] = []
    real = Holding.narrow

    def narrow(self: Holding, cut: Place, ledger: ObjectName | None) -> None:
        seen.extend(held.holds.values())
        real(self, cut, ledger)

    monkeypatch.setattr(Holding, "narrow", narrow)
    held.at_fetch[1] = lambda: seen.extend(held.holds.values())
    held.at_fetch[5] = lambda: seen.extend(held.holds.values())
    code, _, stderr = held.restore()
    assert (code, held.is_restored(), held.holds) == (0, True, {})
    assert [(hold.cut, hold.ledger, hold.purpose) for hold in seen] == [
        (None, None, "restore"),
        (Place(1, 2, 2), None, "restore"),
        (Place(1, 2, 2), None, "restore"),
    ]
    assert "hold" not in stderr


def test_a_ledger_that_is_swapped_under_a_held_restore_changes_nothing(held: Story) -> None:
    held.at_fetch[3] = held.retire
    code, _, stderr = held.restore()
    assert code == 0, stderr
    assert held.is_restored()
    assert ANEW not in stderr


def test_a_restore_that_was_interrupted_goes_on_by_the_ledger_that_its_hold_notes(held: Story) -> None:
    held.collect()
    noted = held.site.owner.ledger
    retired = [held.site.run(1, 3, 3), LedgerRun(RunKind.CUTS_RETIRED, 1, 2, 2, NO_DIGEST)]
    held.at_fetch[3] = lambda: held.site.write_ledger(retired, number=2)
    held.at_fetch[5] = held.interrupt
    assert held.restore()[0] == 130
    ((hold_id, left),) = held.holds.items()
    assert (left.cut, left.ledger) == (Place(1, 2, 2), noted)
    kept = read_progress(held.target)
    assert kept is not None
    assert (kept.hold, kept.done.nothing) == (hold_id, False)
    assert held.run("plan", held.place, "--at", "1.2")[0] == 13, "the ledger in force does not offer it"
    seen: list[str] = []
    held.at_fetch[1] = lambda: seen.extend(held.holds)
    code, stdout, stderr = held.restore("--json")
    assert code == 0, stderr
    assert held.is_restored()
    assert json.loads(stdout)["resumed_bytes"] > 0
    assert (seen, held.holds) == ([hold_id], {})


def test_where_the_hold_is_gone_so_may_the_cut_be(held: Story) -> None:
    held.at_fetch[3] = held.interrupt
    assert held.restore()[0] == 130
    held.give_roster()
    held.retire()
    code, stdout, stderr = held.restore()
    assert (code, stdout) == (13, "")
    assert "1.2" in stderr


def test_where_the_hold_is_gone_and_the_cut_is_not_it_goes_on(held: Story) -> None:
    held.at_fetch[3] = held.interrupt
    assert held.restore()[0] == 130
    held.give_roster()
    held.collect()
    code, stdout, stderr = held.restore("--json")
    assert code == 0, stderr
    assert held.is_restored()
    assert json.loads(stdout)["resumed_bytes"] > 0


def test_a_hold_that_is_taken_out_under_the_reader_is_placed_anew(
    held: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking: list[Holding] = []
    real = Holding.look

    def look(self: Holding) -> None:
        looking.append(self)
        real(self)

    monkeypatch.setattr(holding, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(holding, "refresh_due", lambda *_: True)
    monkeypatch.setattr(Holding, "look", look)

    def is_known() -> bool:
        return any(one._lost is not None for one in looking[-1:])

    def collect() -> None:
        (dead,) = held.holds
        held.give_roster()
        wait_until(is_known, "the reader knows that its hold is gone", 20)
        assert dead not in held.holds
        held.collect()

    held.at_fetch[3] = collect
    code, _, stderr = held.restore()
    assert code == 0, stderr
    assert held.is_restored()
    assert "looked for anew" in stderr
    wait_until(lambda: held.holds == {}, "the second hold is dropped", 20)


def test_a_reader_s_hold_keeps_no_point_for_others(held: Story) -> None:
    held.at_fetch[3] = held.interrupt
    assert held.restore()[0] == 130
    held.retire()
    other = held.target.with_name("other.raw")
    assert held.run("restore", held.place, "--target", other, "--at", "1.2")[0] == 13


def test_damage_under_a_hold_is_damage(held: Story) -> None:
    held.at_fetch[3] = lambda: held.site.store.delete(segment_key(1, 1))
    code, _, _ = held.restore("--on-damage", "map")
    assert code == 26
    assert held.target.with_name("disk.raw.damage.json").exists()
    assert held.holds == {}


def test_a_replica_is_read_unheld(held: Story) -> None:
    held.at_fetch[1] = lambda: None if held.holds == {} else held.interrupt()
    code, _, stderr = held.restore("--replica")
    assert code == 0, stderr
    assert "unheld: " in stderr


# --- verification ----------------------------------------------------------------------------------------


@pytest.fixture
def at_read(monkeypatch: pytest.MonkeyPatch) -> dict[int, Hook]:
    """What happens before the so-manieth segment or pack is read whole."""
    real, count, hooks = DirectoryStore.get, [0], dict[int, Hook]()

    def get(store: DirectoryStore, key: str) -> Blob:
        if key.split("/")[0] in ("log", "packs"):
            count[0] += 1
            hook = hooks.pop(count[0], None)
            if hook is not None:
                hook()
        return real(store, key)

    monkeypatch.setattr(DirectoryStore, "get", get)
    return hooks


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "OBJECTS_AT_ONCE", 1)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("options", [(), ("--at", "1.3")])
def test_what_is_collected_under_a_verification_is_no_damage(
    story: Story, at_read: dict[int, Hook], options: tuple[str, ...]
) -> None:
    at_read[1] = story.collect
    code, stdout, stderr = story.run("verify", story.place, *options)
    assert code == 0, (stdout, stderr)
    assert "looked for anew" in stderr


@pytest.mark.usefixtures("one_by_one")
def test_what_is_lost_under_a_verification_is_damage(story: Story, at_read: dict[int, Hook]) -> None:
    at_read[1] = lambda: story.site.store.delete(segment_key(1, 1))
    assert story.run("verify", story.place)[0] == 27


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(("options", "cut"), [((), None), (("--at", "1.3"), Place(1, 3, 3))])
def test_a_verification_holds_what_it_reads(
    held: Story, at_read: dict[int, Hook], options: tuple[str, ...], cut: Place | None
) -> None:
    seen: list[Hold] = []
    at_read[2] = lambda: seen.extend(held.holds.values())
    assert held.run("verify", held.place, *options)[0] == 0
    assert [(hold.purpose, hold.cut) for hold in seen] == [("verify", cut)]
    assert held.holds == {}


@pytest.mark.usefixtures("one_by_one")
def test_what_no_point_needs_may_go_while_it_is_looked_at(held: Story, at_read: dict[int, Hook]) -> None:
    """The first two segments were collected, and go only now: a plan that executed before we held."""
    pack = held.site.pack(1, 1, 2)
    held.site.write_ledger([held.site.run(1, 1, 2), in_force(pack)])

    def delete() -> None:
        for seq in (1, 2):
            held.site.store.delete(segment_key(1, seq))

    at_read[2] = delete
    code, stdout, _ = held.run("verify", held.place)
    assert code == 0, stdout
