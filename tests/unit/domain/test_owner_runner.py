"""Taking a domain over: against a store that loses replies, refuses, throttles and is away; with no sleep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.owner_drive import OwnerDrive
from cdp_container.domain.owner_runner import OwnerRunner, force_word
from cdp_container.domain.owner_work import OwnerWork, do_work
from cdp_container.errors import (
    Contention,
    Fenced,
    LocalDiskFull,
    MissingObject,
    OwnedElsewhere,
    PreconditionFailed,
    StoreThrottled,
    StoreUnavailable,
)
from cdp_container.format.domain import (
    ObjectName,
    Owner,
    OwnerState,
    build_owner,
    parse_epoch_record,
    parse_owner,
)
from cdp_container.format.keys import OWNER_KEY, epoch_key, ledger_key
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, write
from tests.waiting import wait_until

SECOND_NS = 1_000_000_000
STEPS_MAX = 5000
NO_WISH = ot.TakeOver()


@dataclass
class FakeClock:
    """Goes on when it is told to, or by a nap."""

    now_ns: int = 1000 * SECOND_NS

    def wall_ns(self) -> int:
        return 1_800_000_000 * SECOND_NS + self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


class FaultyStore(MemoryStore):
    """Each request on an object that is written takes the next fault, until they are used up."""

    def __init__(self, clock: FakeClock | SystemClock) -> None:
        super().__init__(clock)
        self.faults: list[str] = []
        self.before_put: Callable[[], None] = lambda: None

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        self.before_put()
        return self._faulty(lambda: super(FaultyStore, self).put_if(key, data, tag))

    def put_new(self, key: str, data: bytes) -> str:
        return self._faulty(lambda: super(FaultyStore, self).put_new(key, data))

    def _faulty(self, put: Callable[[], str]) -> str:
        match self.faults.pop(0) if self.faults else "":
            case "lost reply":
                put()
                raise StoreUnavailable("put", "the reply was lost")
            case "412 after it was done":
                put()
                raise PreconditionFailed("put", "412")
            case "412":
                raise PreconditionFailed("put", "412")
            case "409":
                raise Contention("put", "409")
            case "503":
                raise StoreThrottled("put", "slow down")
            case "away":
                raise StoreUnavailable("put", "no answer")
        return put()


@dataclass
class World:
    """A container that site-a owns, and what site-b sees of it."""

    directory: Path
    clock: FakeClock = field(default_factory=FakeClock)
    told: list[ot.Effect] = field(default_factory=list)
    work: list[OwnerWork] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.store = FaultyStore(self.clock)
        self.site = Site(self.store, seed=3)
        disk = self.site.add_volume("disk", 1 << 20)
        self.site.begin_epoch()
        self.cuts = [self.site.cut([write(disk, 0, bytes([number]) * 512)]) for number in (1, 2, 3)]
        self.site.write_owner(protected=self.cuts[-1])

    def entropy(self, length: int) -> bytes:
        return next(self._ids).to_bytes(length, "big")

    @property
    def owner(self) -> Owner:
        return parse_owner(self.store.get(OWNER_KEY).data, OWNER_KEY, self.site.domain)

    def claimant(self, lease_seconds: int = 30) -> ot.Claimant:
        instance = b"b" * 16
        return ot.Claimant(self.site.domain, "site-b", instance, lease_seconds, "me", "failover", "test 1")

    def drive(self) -> OwnerDrive:
        return OwnerDrive(
            self.store,
            self.claimant(),
            self.directory,
            self.clock,
            self.entropy,
            self.work.append,
            self.told.append,
        )

    def run(self, drive: OwnerDrive, kind: type[ot.Effect]) -> ot.Effect:
        """Drive until such an effect was told."""
        for _ in range(STEPS_MAX):
            found = [effect for effect in self.told if isinstance(effect, kind)]
            if found:
                return found[-1]
            self._turn(drive)
        raise AssertionError(f"no {kind.__name__}: {drive.state.phase}, {self.told[-3:]}")

    def _turn(self, drive: OwnerDrive) -> None:
        if self.work:
            drive.feed(
                do_work(self.store, self.store, self.site.domain, self.work.pop(), self.site.reader_keys())
            )
            return
        due_seconds = drive.due_seconds()
        assert due_seconds is not None, drive.state.phase
        self.clock.sleep(due_seconds)
        drive.feed(ot.Tick())

    def forced(self, **changes: object) -> ot.TakeOver:
        return replace(ot.TakeOver((self.owner.epoch, self.owner.nonce)), **changes)  # type: ignore[arg-type]  # named


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- the drive ---------------------------------------------------------------------------------


def test_a_lease_that_stands_still_is_waited_for_and_taken(world: World) -> None:
    began_ns = world.clock.now_ns
    drive = world.drive()
    drive.feed(NO_WISH)
    activated = world.run(drive, ot.Activated)
    assert isinstance(activated, ot.Activated)
    assert world.clock.now_ns - began_ns > 30 * SECOND_NS
    assert (activated.record.base, activated.record.end) == (world.cuts[-1], world.cuts[-1])
    assert (world.owner.site, world.owner.state) == ("site-b", OwnerState.ACTIVE)
    assert any(isinstance(effect, ot.Waiting) for effect in world.told)


FAULTS = ["lost reply", "412 after it was done", "412", "409", "503", "away"]


@pytest.mark.parametrize("second", FAULTS)
@pytest.mark.parametrize("first", FAULTS)
def test_every_fault_of_a_store_is_survived(world: World, first: str, second: str) -> None:
    for place in range(3):
        drive = world.drive()
        world.store.faults = [*[""] * place, first, second]
        world.told.clear()
        drive.feed(world.forced())
        world.run(drive, ot.Activated)
        assert world.owner.nonce in load_notes(world.directory).nonces
        assert world.owner.protected == world.cuts[-1]


def test_a_store_that_is_away_for_long_is_waited_for(world: World) -> None:
    world.store.faults = ["away"] * 400
    drive = world.drive()
    drive.feed(world.forced())
    world.run(drive, ot.Activated)
    assert world.owner.site == "site-b"


def test_the_nonce_is_durable_before_the_swap_is_sent(world: World) -> None:
    known: list[tuple[bytes, ...]] = []
    world.store.before_put = lambda: known.append(load_notes(world.directory).nonces)
    drive = world.drive()
    drive.feed(world.forced())
    world.run(drive, ot.Activated)
    assert len(known) == 2
    assert world.owner.nonce in known[-1]


def test_without_a_durable_note_nothing_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before, full = world.owner, [True] * 5

    def save(directory: Path, notes: Notes) -> None:
        if full:
            full.pop()
            raise LocalDiskFull("cannot write notes.json", "no space left")
        save_notes(directory, notes)

    monkeypatch.setattr("cdp_container.domain.owner_drive.save_notes", save)
    drive = world.drive()
    drive.feed(world.forced())
    assert world.owner == before
    assert any(isinstance(effect, ot.Trouble) and effect.what == "notes" for effect in world.told)
    world.run(drive, ot.Activated)


def test_a_second_run_of_the_same_directory_does_not_wait(world: World) -> None:
    first = world.drive()
    first.feed(world.forced())
    world.run(first, ot.Activated)
    world.told.clear()
    began_ns = world.clock.now_ns
    second = world.drive()
    second.feed(NO_WISH)
    activated = world.run(second, ot.Activated)
    assert isinstance(activated, ot.Activated)
    assert world.clock.now_ns - began_ns < SECOND_NS
    assert (activated.record.base, activated.record.previous) == (world.cuts[-1], first.state.epoch)


def test_what_the_notes_say_beside_is_kept(world: World) -> None:
    save_notes(world.directory, Notes(whole=frozenset({b"w" * 16}), fenced="once", released_to="site-b"))
    drive = world.drive()
    drive.feed(world.forced())
    world.run(drive, ot.Activated)
    notes = load_notes(world.directory)
    assert (notes.whole, notes.fenced, notes.released_to) == (frozenset({b"w" * 16}), "once", "site-b")


def test_one_who_is_overtaken_is_fenced_durably(world: World) -> None:
    drive = world.drive()
    drive.feed(world.forced())
    world.run(drive, ot.Activated)
    theirs = replace(world.owner, nonce=b"t" * 16, site="site-c", epoch=world.owner.epoch + 1)
    world.store.put_if(OWNER_KEY, build_owner(theirs), world.store.head(OWNER_KEY).tag)
    world.run(drive, ot.Fenced)
    assert "site-c" in load_notes(world.directory).fenced


def test_an_older_cut_makes_a_side_branch(world: World) -> None:
    drive = world.drive()
    drive.feed(world.forced(base=world.cuts[0]))
    world.run(drive, ot.Activated)
    key = epoch_key(world.owner.epoch)
    record = parse_epoch_record(world.store.get(key).data, key, world.site.domain)
    assert (record.base, record.end) == (world.cuts[0], world.cuts[-1])
    assert world.owner.protected == world.cuts[0]


# --- the runner --------------------------------------------------------------------------------


@pytest.fixture
def lines() -> list[str]:
    return []


def runner_of(world: World, lines: list[str], clock: SystemClock | None = None) -> OwnerRunner:
    claimant = world.claimant(lease_seconds=1)
    clock = clock or SystemClock()
    keys = world.site.reader_keys()
    return OwnerRunner(world.store, claimant, world.directory, clock, world.entropy, lines.append, keys)


def test_a_runner_takes_over_renews_and_proves(world: World, lines: list[str]) -> None:
    with runner_of(world, lines) as runner:
        activated = runner.take_over(world.forced())
        assert activated.record.base == world.cuts[-1]
        wait_until(lambda: world.owner.renewals >= 3, "it was renewed", 60)
        runner.prove()
        runner.check()
        assert runner.owner is not None
    assert (world.owner.site, world.owner.state) == ("site-b", OwnerState.ACTIVE)


def test_a_runner_says_what_it_waits_for(world: World, lines: list[str]) -> None:
    world.site.write_owner(lease_seconds=1)
    with runner_of(world, lines) as runner:
        runner.take_over(NO_WISH)
    assert "waiting for the lease" in lines[0]
    assert "'site-a'" in lines[0]
    assert "lease 1 s" in lines[0]


def test_what_is_given_to_this_site_is_taken_at_once(world: World, lines: list[str]) -> None:
    world.site.write_owner(state=OwnerState.RELEASED, released_to="site-b", lease_seconds=900)
    with runner_of(world, lines) as runner:
        runner.take_over(NO_WISH)
    assert lines == []


def test_another_version_than_the_forced_one_is_refused(world: World, lines: list[str]) -> None:
    wish = world.forced()
    world.site.write_owner(renewals=99)
    with runner_of(world, lines) as runner, pytest.raises(OwnedElsewhere) as refusal:
        runner.take_over(wish)
    assert "'site-a'" in refusal.value.why
    assert f"--force {force_word(world.owner)}" in refusal.value.hint
    assert world.owner.site == "site-a"


def test_an_overtaken_runner_says_so(world: World, lines: list[str]) -> None:
    def overtaken() -> bool:
        try:
            runner.check()
        except Fenced:
            return True
        return False

    with runner_of(world, lines) as runner:
        runner.take_over(world.forced())
        theirs = replace(world.owner, nonce=b"t" * 16, site="site-c", epoch=world.owner.epoch + 1)

        def steal() -> bool:
            try:
                world.store.put_if(OWNER_KEY, build_owner(theirs), world.store.head(OWNER_KEY).tag)
            except PreconditionFailed:
                return False
            return True

        wait_until(steal, "it was stolen", 30)
        with pytest.raises(Fenced, match="site-c"):
            runner.prove()
        wait_until(overtaken, "the check says so", 30)


def test_lost_cuts_end_it_unless_that_is_accepted(world: World, lines: list[str]) -> None:
    gone = [found.key for found in world.store.list("log/")][-1]
    world.store.delete(gone)
    with runner_of(world, lines) as runner, pytest.raises(MissingObject) as lost:
        runner.take_over(world.forced())
    assert "--accept-loss" in lost.value.hint
    with runner_of(world, lines) as runner:
        activated = runner.take_over(ot.TakeOver(accept_loss=True))
    assert activated.record.base == world.cuts[-2]
    assert "lost" in activated.record.reason


def test_a_takeover_without_the_ledger_is_told(world: World, lines: list[str]) -> None:
    missing = ObjectName(ledger_key(1, 1), b"l" * 32)
    world.site.write_owner(protected=world.cuts[-1], ledger=missing)
    with runner_of(world, lines) as runner:
        activated = runner.take_over(world.forced())
    assert activated.record.base == world.cuts[-1]
    assert "without the ledger in force" in lines[-1]
    assert missing.key in lines[-1]


def test_a_disk_that_stays_full_ends_a_takeover(
    world: World, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdp_container.domain.owner_runner.UNSAVED_MAX", 2)
    before = world.owner

    def full(directory: Path, notes: Notes) -> None:
        raise LocalDiskFull("cannot write notes.json", "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("cdp_container.domain.owner_drive.save_notes", full)
        with runner_of(world, lines) as runner, pytest.raises(LocalDiskFull, match="no space left"):
            runner.take_over(world.forced())
    assert world.owner == before
    assert "still trying: notes" in lines[0]
    with runner_of(world, lines) as runner:
        runner.take_over(world.forced())  # once there is room again
        runner.prove()
