"""Which holds the collector respects: all but those of which it knows that nobody lives behind them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain.held import Look, Watch, build_watch, dead_holds, parse_watch, unseen, watched
from cdp_container.domain.held_look import WATCH_NAME, Living, look_at_holds
from cdp_container.domain.hold_rules import HOLD_TERM_SECONDS
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    DamagedObject,
    HoldLost,
    MissingObject,
    StoreUnavailable,
)
from cdp_container.format.gc import SeenHold
from cdp_container.format.holds import Hold
from cdp_container.format.keys import HOLDS_KEY
from cdp_container.format.place import Place
from tests.unit.domain.holding_play import (
    SECOND_NS,
    Entropy,
    Now,
    TestedStore,
    container,
    failing,
    holds_in,
    reader,
    write_holds,
)
from tests.unit.format.samples import DOMAIN, fixed

BOOT, OTHER_BOOT = fixed("boot", 16), fixed("other boot", 16)
CUT = Place(3, 1, 1)
ONE, TWO = fixed("one", 16).hex(), fixed("two", 16).hex()
A_READER = Hold("munich", "Sepp", "restore", CUT, 5, HOLD_TERM_SECONDS, 0)
TERM_NS = HOLD_TERM_SECONDS * SECOND_NS


class Collector:
    """Looks at the roster now and then, on its own clock."""

    def __init__(self, store: TestedStore, directory: Path) -> None:
        self.store, self.directory, self.clock, self.boot = store, directory, Now(5 * SECOND_NS), BOOT

    def look(self, store_ns: int | None = None) -> Living:
        return look_at_holds(self.store, DOMAIN, self.directory, self.boot, self.clock, Entropy(), store_ns)


@pytest.fixture
def clock() -> Now:
    return Now()


@pytest.fixture
def store(clock: Now) -> TestedStore:
    return container(clock)


@pytest.fixture
def collector(store: TestedStore, tmp_path: Path) -> Collector:
    return Collector(store, tmp_path / "collector")


# --- nothing is deleted on doubt ------------------------------------------------------------------


def test_no_roster_is_an_error(store: TestedStore, collector: Collector) -> None:
    store.delete(HOLDS_KEY)
    with pytest.raises(MissingObject, match="no roster"):
        collector.look()


def test_a_roster_with_an_entry_that_makes_no_sense_is_an_error(
    store: TestedStore, collector: Collector
) -> None:
    write_holds(store, {ONE: A_READER})
    data = store.get(HOLDS_KEY).data.replace(b'"counter":5', b'"counter":-5')
    store.delete(HOLDS_KEY)
    store.put_new(HOLDS_KEY, data)
    with pytest.raises(DamagedObject, match=ONE):
        collector.look()


def test_a_directory_that_cannot_be_made_is_an_error(store: TestedStore, tmp_path: Path) -> None:
    with pytest.raises(CdpError, match="cannot make"):
        Collector(store, tmp_path / "journal" / "collector").look()


def test_a_dead_hold_that_cannot_be_taken_out_is_an_error(store: TestedStore, collector: Collector) -> None:
    write_holds(store, {ONE: A_READER})
    collector.look()
    collector.clock.passes(HOLD_TERM_SECONDS + 1)
    for error in (AccessDenied("w", "403"), StoreUnavailable("w", "away")):
        store.before = failing(error, 10**6)
        with pytest.raises(type(error)):
            collector.look()
    assert list(holds_in(store)) == [ONE]


# --- when a hold is dead ----------------------------------------------------------------------------


def test_it_lives_until_its_term_has_passed_since_it_was_first_seen(
    store: TestedStore, collector: Collector
) -> None:
    write_holds(store, {ONE: A_READER})
    assert collector.look() == Living({ONE: A_READER}, {})
    collector.clock.passes(HOLD_TERM_SECONDS)
    assert collector.look() == Living({ONE: A_READER}, {})
    collector.clock.passes(1)
    assert collector.look() == Living({}, {ONE: A_READER})
    assert not holds_in(store)


def test_a_reader_that_was_killed_and_one_that_lives(
    store: TestedStore, clock: Now, collector: Collector
) -> None:
    told: list[str] = []
    entropy = Entropy()
    killed, living = (reader(store, clock, told, entropy) for _ in range(2))
    killed.place()
    living.place()
    living.narrow(CUT, None)
    for _ in range(8):
        collector.look()
        for each in (clock, collector.clock):
            each.passes(HOLD_TERM_SECONDS / 3)
        living.look()
    assert list(holds_in(store)) == [living.hold_id]
    living.check()
    killed.look()
    with pytest.raises(HoldLost):
        killed.check()
    assert list(holds_in(store)) == [living.hold_id]


def test_a_reader_whose_hold_is_taken_out_while_it_refreshes(
    store: TestedStore, clock: Now, collector: Collector
) -> None:
    """Whoever swaps first wins: it is refreshed and lives, or it is gone and the reader knows."""
    told: list[str] = []
    holding = reader(store, clock, told)
    holding.place()
    collector.look()
    collector.clock.passes(HOLD_TERM_SECONDS + 1)
    clock.passes(HOLD_TERM_SECONDS + 1)

    def refresh_first() -> None:
        store.before = lambda: None
        holding.look()

    store.before = refresh_first
    assert list(collector.look().holds) == [holding.hold_id]
    holding.check()
    collector.look()
    collector.clock.passes(HOLD_TERM_SECONDS + 1)
    clock.passes(HOLD_TERM_SECONDS + 1)

    def collect_first() -> None:
        store.before = lambda: None
        assert not collector.look().holds

    store.before = collect_first
    holding.look()
    with pytest.raises(HoldLost):
        holding.check()
    assert not holds_in(store)


def test_a_reboot_begins_the_watch_anew(store: TestedStore, collector: Collector) -> None:
    write_holds(store, {ONE: A_READER})
    collector.clock.ns = 10**6 * SECOND_NS
    collector.look()
    collector.boot = OTHER_BOOT
    collector.clock.ns += 2 * TERM_NS
    assert list(collector.look().holds) == [ONE]
    collector.clock.ns += TERM_NS
    assert list(collector.look().holds) == [ONE]
    collector.clock.ns += SECOND_NS
    assert not collector.look().holds


def test_a_clock_that_went_back_in_one_boot_begins_it_anew() -> None:
    before = Watch(BOOT, {ONE: Look(5, 100 * TERM_NS)})
    after = watched(before, {ONE: A_READER}, BOOT, 50 * TERM_NS)
    assert after.looks[ONE].since_ns == 50 * TERM_NS


@pytest.mark.parametrize("junk", [b"", b"{}", b"x" * 100, b'{"version":9}', b" " * (1 << 20) + b"{}"])
def test_a_watch_that_makes_no_sense_begins_anew(
    store: TestedStore, collector: Collector, junk: bytes
) -> None:
    write_holds(store, {ONE: A_READER})
    collector.look()
    (collector.directory / WATCH_NAME).write_bytes(junk)
    collector.clock.passes(HOLD_TERM_SECONDS + 1)
    assert list(collector.look().holds) == [ONE]
    collector.clock.passes(HOLD_TERM_SECONDS + 1)
    assert not collector.look().holds


def test_the_watch_goes_over_processes(store: TestedStore, collector: Collector) -> None:
    write_holds(store, {ONE: A_READER})
    collector.look()
    another = Collector(store, collector.directory)
    another.clock.passes(HOLD_TERM_SECONDS + 1)
    assert not another.look().holds


def test_an_operator_s_hold_stands_until_its_time_by_the_store_s_clock(
    store: TestedStore, collector: Collector
) -> None:
    kept = replace(A_READER, counter=0, term_seconds=0, until_ns=1_000)
    write_holds(store, {ONE: kept})
    for store_ns in (None, 999, 1_000):
        collector.clock.passes(100 * HOLD_TERM_SECONDS)
        assert list(collector.look(store_ns).holds) == [ONE]
    assert collector.look(1_001).dead == {ONE: kept}


def test_a_time_that_the_roster_names_makes_no_reader_dead() -> None:
    ancient = replace(A_READER, since_ns=-(2**63))
    watch = watched(Watch(BOOT), {ONE: ancient}, BOOT, 0)
    assert not dead_holds(watch, {ONE: ancient}, TERM_NS, 2**62)


def test_a_hold_that_was_never_watched_is_not_dead() -> None:
    assert not dead_holds(Watch(BOOT), {ONE: A_READER}, 2**62, 2**62)


# --- what a plan had not seen -------------------------------------------------------------------------


def test_what_a_plan_had_not_seen() -> None:
    seen = [SeenHold(ONE, CUT)]
    assert unseen(seen, {}) == ()
    assert unseen(seen, {ONE: A_READER}) == ()
    assert unseen(seen, {ONE: replace(A_READER, counter=9)}) == ()
    for other in (None, Place(3, 2, 2)):
        assert unseen(seen, {ONE: replace(A_READER, cut=other)}) == (SeenHold(ONE, other),)
        assert unseen(seen, {ONE: A_READER, TWO: replace(A_READER, cut=other)}) == (SeenHold(TWO, other),)
    assert unseen([], {TWO: A_READER, ONE: A_READER}) == tuple(
        SeenHold(one, CUT) for one in sorted((ONE, TWO))
    )


# --- the file ---------------------------------------------------------------------------------------------

LOOKS = st.dictionaries(
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.builds(Look, st.integers(0, 2**64 - 1), st.integers(0, 2**63)),
    max_size=4,
)


@given(LOOKS)
def test_a_watch_comes_back(looks: dict[str, Look]) -> None:
    assert parse_watch(build_watch(Watch(BOOT, looks)), "x") == Watch(BOOT, looks)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(CdpError):
        parse_watch(data, "x")
