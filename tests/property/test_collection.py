"""A container that lives, and passes of the real collector over it: whatever is retained restores exactly.

The model keeps every version (tests/containers.py): every cut is compared byte for byte, restored by
`rehydrate` and by the reader that shares no code with it. Who reads under a hold, and who was promised a cut,
must get it whatever passes did since.
"""

from __future__ import annotations

import contextlib
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdp_agent.collector.pass_types import Wishes
from cdp_container.domain.owner_types import EndFound, FindEnd
from cdp_container.domain.owner_work import do_work
from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN, Retention
from cdp_container.errors import CollectionStopped
from cdp_container.format.domain import ObjectName
from cdp_container.format.holds import Hold, Holds, build_holds, parse_holds
from cdp_container.format.keys import HOLDS_KEY, segment_key
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from rehydrate.container import Secret, open_container
from rehydrate.plan import Choice
from rehydrate.points import plan_restore, scope_of
from rehydrate.restore import Source
from tests.containers import PASSPHRASE, write
from tests.reader import Container, ReaderError
from tests.unit.collector.collecting_site import HOUR, SECOND_NS, CollectedSite, Crash, Effects
from tests.unit.rehydrate.test_restore import restored, run

DISK_BYTES, LOG_BYTES = 64 * 1024, 40 * 1024
EPOCHS_MAX = 8
EFFECTS_MAX = 16
"""About as many as a small pass has."""
EPOCH_BYTES_MAX = 128
"""What packs and the ledger together hold of an epoch of which nothing is left."""
YEAR_NS = 365 * 24 * HOUR * SECOND_NS

later = st.sampled_from([0, HOUR, 5 * HOUR, 30 * HOUR])
spaces = st.sampled_from([1.0, 1.25, 3.0])
terms = st.sampled_from([0, HOUR, 4 * HOUR, 24 * HOUR])
policies = st.builds(
    Retention, every_seconds=terms, hourly_seconds=terms, daily_seconds=st.sampled_from([0, 72 * HOUR])
)


@dataclass
class Reader:
    """Somebody who reads under a hold: which cut, by which ledger."""

    place: Place
    ledger: ObjectName | None


class Collection(RuleBasedStateMachine):
    """See the module. `stays` holds cuts that must not retire: by id of the hold that says so."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory()
        self.directory = Path(self._scratch.name)
        self.out = self.directory / "out"
        self.out.mkdir()
        self.retired: set[Place] = set()
        self.readers: dict[str, Reader] = {}
        self.narrow: dict[str, bool] = {}
        self.stays: dict[str, Place] = {}
        self.markers: set[Place] = set()
        self.torn: set[Place] = set()
        self._count = self._counter = self.begun_at_packed = 0

    def teardown(self) -> None:
        try:
            self._restore_all()
        finally:
            self._scratch.cleanup()

    @initialize(
        seed=st.integers(0, 1 << 16), encrypted=st.sampled_from([False, False, True]), policy=policies
    )
    def begin(self, seed: int, encrypted: bool, policy: Retention) -> None:
        self.site = site = CollectedSite(encrypted, seed)
        site.retention = policy
        site.add_disk("disk", DISK_BYTES)
        site.add_disk("log", LOG_BYTES)
        site.begin_epoch()
        site.busy(6, minutes=30, writes=3)

    # --- guests and time ---------------------------------------------------------------------------

    @rule(cuts=st.integers(1, 6), minutes=st.sampled_from([1, 20, 90]))
    def write(self, cuts: int, minutes: int) -> None:
        self.site.busy(cuts, minutes, writes=2)

    @rule()
    def mark(self) -> None:
        self._count += 1
        place = self.site.cut([self.site._random_write()], marker=f"marker-{self._count}")
        self.markers.add(place)

    @rule()
    def write_while_not_whole(self) -> None:
        self.torn.add(self.site.cut([self.site._random_write()], not_whole=[self.site.disks[1][0]]))

    @rule(grows=st.booleans())
    def resize(self, grows: bool) -> None:
        space, size = self.site.disks[0]
        size = size + 8192 if grows else max(LOG_BYTES, size - 8192)
        self.site.disks[0] = (space, size)
        self.site.resize(space, size)
        self.site.cut()

    @rule(policy=policies)
    def change_policy(self, policy: Retention) -> None:
        self._count += 1  # no two are the same
        self.site.retention = replace(policy, weekly_seconds=self._count)
        self.site.write_owner()

    @rule()
    def catalog(self) -> None:
        """A catalog of what stands there, as the agent makes them."""
        keys = [
            found.key
            for found in self.site.store.list("log/")
            if f"/{self.site.owner.epoch:010}/" in found.key
        ]
        self._count += 1
        if keys:
            self.site.catalog(keys[:4], number=self._count)

    # --- owners ------------------------------------------------------------------------------------

    def _may_begin(self) -> bool:
        return self.site.owner.epoch < EPOCHS_MAX

    @precondition(_may_begin)
    @rule(zombie=st.booleans(), unfinished=st.booleans())
    def restart(self, zombie: bool, unfinished: bool) -> None:
        if unfinished:
            self.site.cut([self.site._random_write()], complete=False)
        self._end_is_found()
        if zombie and not unfinished:
            self.site.zombie([self.site._random_write()])
        self.site.begin_epoch()

    @precondition(_may_begin)
    @rule(back=st.integers(1, 12))
    def take_over_at_an_older_cut(self, back: int) -> None:
        """What is newer becomes a side branch. A claim refuses it after a plan executed."""
        sizes = {len(image) for image in self.site.images.values()}
        offered = [place for place in sorted(self.site.images) if not self._is_retired(place)]
        base = offered[-min(back, len(offered))]
        if len(sizes) == 1 and self._same_sizes(base):
            self.site.begin_epoch(base=base)
            self.site.protect(base)
            self._end_is_found()

    @precondition(_may_begin)
    @rule(number=st.integers(0, 1 << 16), cuts=st.integers(0, 2), passes=later)
    def lose_the_site_twice(self, number: int, cuts: int, passes: int) -> None:
        """An epoch begins where the last segment was collected, if there is such a cut; and then another."""
        self.mark()
        self.site.busy(8, minutes=20, writes=2)
        self.site.time.sleep(30 * HOUR)
        self._pass(Effects(), space=1.0)
        packed = self._packed()
        self.begun_at_packed += bool(packed)
        base = packed[number % len(packed)] if packed else max(self.site.images)
        self._end_is_found()
        self.site.begin_epoch(base=base)
        self.site.protect(base)
        if cuts:
            self.site.busy(cuts, minutes=20, writes=2)
        self.site.time.sleep(passes)
        self._pass(Effects())
        self._end_is_found()
        self.site.begin_epoch()
        self._end_is_found()

    def _packed(self) -> list[Place]:
        """The cuts that are offered, and whose last segments were collected."""
        there = {found.key for found in self.site.store.list("log/")}
        return [
            place
            for place in sorted(self.site.images)
            if segment_key(place.epoch, place.seq) not in there
            if not self._is_retired(place) and self._same_sizes(place)
        ]

    def _end_is_found(self) -> None:
        """By who claims, as the real machine asks for it: the newest cut of the newest epoch, or its base."""
        owner, keys = self.site.owner, ReaderKeys(self.site._identity().index_key or None)
        effect = FindEnd(owner.epoch_in_force, owner.protected, owner.ledger)
        found = do_work(self.site.store, self.site.store, self.site.domain, effect, keys)
        assert isinstance(found, EndFound), found
        assert found.end.place == self.site._newest
        assert found.end.digest == self.site._lines[found.end.place].digest

    def _same_sizes(self, base: Place) -> bool:
        image = self.site.images[base]
        return all(len(image[space]) == size for space, size in self.site.disks)

    # --- readers -----------------------------------------------------------------------------------

    @rule(number=st.integers(0, 1 << 16))
    def read_under_a_hold(self, number: int) -> None:
        """It holds everything, looks, chooses its cut, and goes on reading."""
        self._hold(self._some(number), narrows=True)

    def _narrow_all(self) -> None:
        self.narrow = dict.fromkeys(self.readers, True)
        self._refresh()

    def _hold(self, place: Place, narrows: bool) -> None:
        self._count += 1
        hold_id = f"{self._count:032x}"
        reader = Reader(place, self.site.owner.ledger)
        self.readers[hold_id] = reader
        self.narrow[hold_id] = narrows
        self._refresh()

    def _refresh(self) -> None:
        """All of them live."""
        self._counter += 1
        self._swap_roster(
            {name: self._entry(reader, self.narrow[name]) for name, reader in self.readers.items()}
        )

    def _entry(self, reader: Reader, narrows: bool) -> Hold:
        cut = reader.place if narrows else None
        return Hold(
            "site-b", "", "restore", cut, self._counter, 900, 1, None, reader.ledger if narrows else None
        )

    @precondition(lambda self: bool(self.readers))
    @rule()
    def go_on_reading(self) -> None:
        for hold_id, reader in self.readers.items():
            self._restored(reader.place, self._entry(reader, narrows=True), hold_id)

    @precondition(lambda self: bool(self.readers))
    @rule()
    def end_a_reading(self) -> None:
        self.go_on_reading()
        hold_id = next(iter(self.readers))
        del self.readers[hold_id]
        self._swap_roster({}, without=hold_id)

    @rule(number=st.integers(0, 1 << 16))
    def promise(self, number: int) -> None:
        """An operator's hold, while nothing is named: then it is a promise."""
        if self.site.owner.plan is None:
            place = self._some(number)
            self._count += 1
            hold_id = f"{self._count:032x}"
            self.stays[hold_id] = place
            until_ns = self.site.time.wall_ns() + YEAR_NS
            self._swap_roster(
                {hold_id: Hold("x", "", "audit", place, 0, 0, 1, until_ns, self.site.owner.ledger)}
            )

    @precondition(lambda self: bool(self.stays))
    @rule()
    def end_a_promise(self) -> None:
        hold_id = next(iter(self.stays))
        del self.stays[hold_id]
        self._swap_roster({}, without=hold_id)

    def _swap_roster(self, more: dict[str, Hold], without: str = "") -> None:
        store = self.site.store
        blob = store.get(HOLDS_KEY)
        roster = parse_holds(blob.data, HOLDS_KEY, self.site.domain)
        holds = {key: hold for key, hold in roster.holds.items() if key != without} | more
        fresh = Holds(self.site.domain, roster.version + 1, self.site.rng.randbytes(16), holds)
        store.put_if(HOLDS_KEY, build_holds(fresh), blob.found.tag)

    # --- the collector -----------------------------------------------------------------------------

    @rule(passes=later, forgets=st.booleans(), with_key=st.booleans(), space=spaces)
    def collect(self, passes: int, forgets: bool, with_key: bool, space: float) -> None:
        """One pass; its memory may be lost before."""
        self.site.time.sleep(passes)
        self._pass(Effects(), forgets, with_key, space)

    @rule(passes=later, at=st.integers(0, 2 * EFFECTS_MAX), again=st.booleans())
    def collect_and_die(self, passes: int, at: int, again: bool) -> None:
        """At any effect, before or after it."""
        self.site.busy(4, minutes=20, writes=2)
        self.site.time.sleep(passes)
        self._pass(Effects(crash_at=at / 2))
        if again:
            self._pass(Effects())

    @rule(passes=later, at=st.integers(0, EFFECTS_MAX), number=st.integers(0, 1 << 16), narrows=st.booleans())
    def collect_while_somebody_comes(self, passes: int, at: int, number: int, narrows: bool) -> None:
        """A reader comes before any effect; what its ledger retires is not offered to it."""
        self.site.busy(4, minutes=20, writes=2)
        self.site.time.sleep(passes)
        place, count = self._some(number), [0]

        def before(what: str) -> None:
            count[0] += 1
            if count[0] == at and not self._is_retired(place):
                self._hold(place, narrows)

        self._pass(Effects(before=before))
        self._narrow_all()

    def _pass(
        self, effects: Effects, forgets: bool = False, with_key: bool = False, space: float = 1.25
    ) -> None:
        self._count += forgets
        self._narrow_all()
        young = self._young()
        key = self.site.private_key if with_key and self.site.encrypted else None
        wishes = Wishes(space_target=space, private_key=key, live_share=1.0)
        memory = self.directory / f"memory-{self._count if forgets else 0}"
        with contextlib.suppress(Crash, CollectionStopped):
            self.site.run_pass(memory, wishes, effects)
        now = {place for place in self.site.images if self._is_retired(place)}
        assert self.retired <= now, "a cut that was retired is offered again"
        assert not now & young, "a young cut, or one that is promised, marked or not protected, is retired"
        self.retired = now

    def _young(self) -> set[Place]:
        """What no pass may retire, told by the clock alone."""
        store, protected = self.site.store, self.site.owner.protected
        now_ns, window = self.site.time.wall_ns(), self.site.retention.every_seconds or 0
        term_ns = max(window, COLLECT_AGE_SECONDS_MIN) * SECOND_NS
        keys = {found.key: found.modified_ns for found in store.list("log/")}
        newest = {
            place
            for place in self.site.images
            if (key := segment_key(place.epoch, place.seq)) in keys
            and keys[key] > now_ns - term_ns + HOUR * SECOND_NS
        }
        return {
            place for place in newest | set(self.stays.values()) | self.markers if place not in self.retired
        } | {place for place in self.site.images if place >= protected and place not in self.retired}

    # --- what must hold ----------------------------------------------------------------------------

    def _is_retired(self, place: Place) -> bool:
        return self.site.is_retired(place)

    def _some(self, number: int) -> Place:
        offered = [place for place in sorted(self.site.images) if not self._is_retired(place)]
        return offered[number % len(offered)]

    @invariant()
    def what_is_promised_is_offered(self) -> None:
        if hasattr(self, "site"):
            for place in self.stays.values():
                assert not self._is_retired(place), f"{place} was promised to an operator"
            assert not self._is_retired(max(self.site.images))

    @rule(number=st.integers(0, 1 << 16))
    def restore(self, number: int) -> None:
        place = self._some(number)
        self._restored(place)
        self._read_by_the_other(place)

    def _restored(self, place: Place, held: Hold | None = None, hold_id: str = "") -> None:
        """By rehydrate, every volume that is whole."""
        secret = Secret(PASSPHRASE) if self.site.encrypted else Secret()
        container = open_container(self.site.store, secret, held=held)
        choice, image = Choice(at=(place.epoch, place.cut)), self.site.images[place]
        with closing(container.gather(scope_of(container.history, choice))) as contents:
            source = Source(self.site.store, container.keys, contents)
            names = ["disk"] if place in self.torn else []
            plan = plan_restore(container, contents, choice, names)
            assert plan.cut.place == place
            for volume in plan.volumes:
                back = run(source, volume, self.out)
                assert back == image[volume.volume.space], f"{place} of {volume.volume.name} {hold_id}"

    def _read_by_the_other(self, place: Place) -> None:
        reader = self._reader()
        cut = reader.cut(place.epoch, place.cut)
        for space in reader.volumes(cut):
            if space not in cut.not_whole:
                target = BytesIO()
                size = reader.restore(space.hex(), target, cut)
                assert target.getvalue().ljust(size, b"\0") == self.site.images[place][space], place

    def _reader(self) -> Container:
        store = self.site.store
        keys = [found.key for found in store.list("")]
        return Container(
            lambda key: store.get(key).data, lambda: keys, PASSPHRASE if self.site.encrypted else None
        )

    def _restore_all(self) -> None:
        if not hasattr(self, "site"):
            return
        for reader in self.readers.values():
            self._restored(reader.place, self._entry(reader, narrows=True))
        for place in sorted(self.site.images):
            if not self._is_retired(place):
                self._restored(place)
                self._read_by_the_other(place)
                continue
            with contextlib.suppress(ReaderError):
                self._reader().cut(place.epoch, place.cut)
                raise AssertionError(f"{place} is retired, and offered")


Collection.TestCase.settings = settings(
    max_examples=15,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Not shrunk: a story is minutes of work; its last steps tell enough."""
TestCollection = pytest.mark.slow(Collection.TestCase)


def test_what_lies_beyond_an_end_waits_until_something_newer_is_protected(tmp_path: Path) -> None:
    """Found by the machine: it was named, and no plan may name what is not older than what is protected."""
    site = CollectedSite()
    site.add_disk("disk", DISK_BYTES)
    site.begin_epoch()
    site.busy(8)
    zombie = site.zombie([site._random_write()])
    site.begin_epoch()
    site.time.sleep(30 * HOUR)
    site.run_pass(tmp_path)
    key = segment_key(zombie.epoch, zombie.seq)
    assert key in {found.key for found in site.store.list("log/")}
    site.busy(2)
    site.time.sleep(30 * HOUR)
    site.run_pass(tmp_path)
    assert key not in {found.key for found in site.store.list("log/")}
    site.sound(tmp_path / "out")


def test_what_an_operators_hold_notes_may_be_gone(tmp_path: Path) -> None:
    """Found by the machine: its ledger is garbage after a while, and no pass went on from there."""
    site = CollectedSite(every_hours=1)
    site.add_disk("disk", DISK_BYTES)
    site.begin_epoch()
    site.busy(8)
    site.run_pass(tmp_path)
    place, ledger = min(cut for cut in site.images if not site.is_retired(cut)), site.owner.ledger
    assert ledger is not None
    hold = Hold("x", "", "audit", place, 0, 0, 1, site.time.wall_ns() + YEAR_NS, ledger)
    data = build_holds(Holds(site.domain, 2, bytes(16), {"e" * 32: hold}))
    site.store.put_if(HOLDS_KEY, data, site.store.head(HOLDS_KEY).tag)
    for _ in range(4):
        site.busy(8)
        site.run_pass(tmp_path)
    assert ledger.key not in {found.key for found in site.store.list("packs/")}
    assert not site.is_retired(place)
    site.sound(tmp_path / "out")


def restarted(epochs: int, cuts: int) -> CollectedSite:
    """A disk that is overwritten again and again; only the newest cut is kept."""
    site = CollectedSite(seed=1)
    site.retention = Retention(every_seconds=0)
    disk = site.add_disk("disk", DISK_BYTES)
    for number in range(epochs * cuts):
        if number % cuts == 0:
            site.begin_epoch()
        site.time.sleep(300)
        site.cut([write(disk, number % 8 * 8192, site.rng.randbytes(8192))])
    site.protect(max(site.images))
    site.time.sleep(2 * HOUR)
    return site


@pytest.mark.slow
def test_a_thousand_restarts_take_the_space_of_none(tmp_path: Path) -> None:
    """But for what each epoch leaves outside of what is collected: its record, and a line in one pack."""
    taken = []
    for epochs, cuts in ((1, 2000), (1000, 2)):
        site = restarted(epochs, cuts)
        before = site.stored_bytes
        site.run_pass(tmp_path / f"memory-{epochs}")
        again = site.run_pass(tmp_path / f"memory-{epochs}")
        assert again.why_not == "there is nothing to collect"
        assert site.stored_bytes < before / 20
        taken.append((site.stored_bytes, sum(found.size for found in site.store.list("log/"))))
        (tmp_path / "out").mkdir(exist_ok=True)
        assert restored(site, max(site.images), tmp_path / "out") == site.images[max(site.images)]
    (alone_bytes, alone_log), (many_bytes, many_log) = taken
    assert many_log <= alone_log * 1.01, "no epoch keeps a segment for itself"
    assert many_bytes - alone_bytes < 1000 * EPOCH_BYTES_MAX
