"""A reader's hold: whatever stands in its way, the reader reads; and an entry that is gone stays gone."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from cdp_container.domain import roster
from cdp_container.domain.hold_rules import HOLD_TERM_SECONDS
from cdp_container.domain.holding import Holding, Reader
from cdp_container.domain.roster import TRIES_MAX, change_roster, read_roster, renew_roster
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    DamagedObject,
    HoldLost,
    MissingObject,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.format import limits
from cdp_container.format.domain import ObjectName, build_config, build_owner, config_digest
from cdp_container.format.holds import Hold
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, config_key, ledger_key
from cdp_container.format.place import Place
from cdp_container.store.s3_settings import TagSpelling
from tests.unit.domain.holding_play import (
    Entropy,
    Now,
    TestedStore,
    container,
    failing,
    holds_in,
    reader,
    write_holds,
)
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

CUT = Place(3, 1, 1)
LEDGER = ObjectName(ledger_key(3, 2), bytes(32))
AWAY = StoreUnavailable("write", "no answer")


@pytest.fixture
def clock() -> Now:
    return Now()


@pytest.fixture
def store(clock: Now) -> TestedStore:
    return container(clock)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def holding(store: TestedStore, clock: Now, told: list[str]) -> Holding:
    return reader(store, clock, told)


# --- what stands in the way of a hold ----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AccessDenied("write", "403"), "may not write"),
        (AWAY, "no answer"),
        (Contention("write", "409"), "409"),
    ],
)
def test_a_roster_that_cannot_be_written_leaves_the_reader_unheld(
    store: TestedStore, holding: Holding, told: list[str], error: CdpError, said: str
) -> None:
    store.before = failing(error, 10**6)
    with holding:
        holding.place()
        holding.narrow(CUT, LEDGER)
        holding.check()
        holding.look()
        holding.place()
        assert (holding.hold_id, holding.hold) == ("", None)
    assert len(told) == 1
    assert told[0].startswith("unheld: ")
    assert said in told[0]
    assert not holds_in(store)
    assert store.swaps <= 2 * TRIES_MAX


def test_a_container_without_a_roster(clock: Now, told: list[str]) -> None:
    with reader(container(clock, roster=False), clock, told) as holding:
        holding.place()
    assert len(told) == 1
    assert "no roster" in told[0]


def test_a_damaged_roster(store: TestedStore, holding: Holding, told: list[str]) -> None:
    store.delete(HOLDS_KEY)
    store.put_new(HOLDS_KEY, b"{}")
    with holding:
        holding.place()
    assert len(told) == 1
    assert store.get(HOLDS_KEY).data == b"{}"


def test_no_container_at_all_is_for_others_to_tell(clock: Now, told: list[str]) -> None:
    with reader(TestedStore(clock), clock, told) as holding:
        holding.place()
    assert not told


def test_a_full_roster(store: TestedStore, holding: Holding, told: list[str]) -> None:
    one = samples.holds().holds[next(iter(samples.holds().holds))]
    full = {f"{number:032x}": one for number in range(1 << 20, (1 << 20) + limits.HOLDS_MAX)}
    write_holds(store, full)
    with holding:
        holding.place()
    assert "HOLDS_MAX" in told[0]
    assert holds_in(store) == full


def test_words_that_are_too_long_are_no_reason_not_to_read(
    store: TestedStore, clock: Now, told: list[str]
) -> None:
    with Holding(store, Reader("x" * 2000, "", ""), clock, Entropy(), told.append, False) as holding:
        holding.place()
    assert "HOLD_TEXT_BYTES_MAX" in told[0]


def test_in_another_zone_than_the_home_nobody_would_see_it(
    store: TestedStore, holding: Holding, told: list[str]
) -> None:
    config = build_config(replace(samples.config(), endpoints=("s3://bucket/shop?endpoint=https://home",)))
    store.put_new(config_key(config_digest(config)), config)
    store.delete(OWNER_KEY)
    store.put_new(OWNER_KEY, build_owner(replace(samples.owner(), config=config_digest(config))))
    with holding:
        holding.place()
    assert "not the zone" in told[0]
    assert not holds_in(store)


# --- lost replies, and others that write at the same time ---------------------------------------


@pytest.mark.parametrize("error", [AWAY, PreconditionFailed("w", "412"), Contention("w", "409")])
def test_a_lost_reply_is_read_back(
    store: TestedStore, holding: Holding, told: list[str], error: CdpError
) -> None:
    store.after = failing(error)
    holding.place()
    assert list(holds_in(store)) == [holding.hold_id]
    store.after = failing(error)
    holding.narrow(CUT, LEDGER)
    assert holds_in(store) == {holding.hold_id: holding.hold}
    store.after = failing(error)
    holding.drop()
    assert not holds_in(store)
    assert not told
    assert store.swaps == 3


def test_two_readers_at_once(store: TestedStore, clock: Now, told: list[str]) -> None:
    """The second one comes between the first one's look and its swap, each time the first one swaps."""
    entropy = Entropy()
    first, second = (reader(store, clock, told, entropy) for _ in range(2))

    def meanwhile(step: str) -> None:
        store.before = lambda: None
        match step:
            case "place":
                second.place()
            case "narrow":
                second.narrow(Place(2, 7, 9), None)
            case _:
                second.drop()

    store.before = lambda: meanwhile("place")
    first.place()
    assert set(holds_in(store)) == {first.hold_id, second.hold_id}
    store.before = lambda: meanwhile("narrow")
    first.narrow(CUT, LEDGER)
    assert holds_in(store) == {first.hold_id: first.hold, second.hold_id: second.hold}
    store.before = lambda: meanwhile("drop")
    first.drop()
    assert not holds_in(store)
    assert not told


def test_who_always_loses_the_race_gives_up(store: TestedStore, clock: Now, told: list[str]) -> None:
    numbers = iter(range(10**6))
    other = samples.holds().holds[next(iter(samples.holds().holds))]

    def race() -> None:
        write_holds(store, {f"{next(numbers):032x}": other})

    store.before = race
    with reader(store, clock, told) as holding:
        holding.place()
    assert len(told) == 1
    assert store.swaps == TRIES_MAX


class Quoting(TestedStore):
    """Gives tags in quotes, and takes them without."""

    spelling: TagSpelling = "as-given"

    def spell_tags(self, spelling: TagSpelling) -> None:
        self.spelling = spelling

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        return super().put_if(key, data, tag if self.spelling == "unquoted" else f'"{tag}"')


def test_a_store_that_spells_tags_its_own_way(clock: Now, told: list[str]) -> None:
    plain, store = container(clock), Quoting(clock)
    for found in plain.list(""):
        store.put_new(found.key, plain.get(found.key).data)
    holding = reader(store, clock, told)
    holding.place()
    assert list(holds_in(store)) == [holding.hold_id]
    assert (store.spelling, store.swaps, told) == ("unquoted", 2, [])


# --- a hold's life -----------------------------------------------------------------------------


def test_everything_then_a_cut_then_nothing(store: TestedStore, clock: Now, told: list[str]) -> None:
    with reader(store, clock, told) as holding:
        holding.place()
        everything = Hold("munich", "Sepp", "restore", None, 1, HOLD_TERM_SECONDS, clock.ns)
        assert holds_in(store) == {holding.hold_id: everything}
        holding.narrow(CUT, LEDGER)
        narrowed = replace(everything, cut=CUT, ledger=LEDGER, counter=2)
        assert holds_in(store) == {holding.hold_id: narrowed}
        holding.narrow(CUT, LEDGER)
        assert holds_in(store) == {holding.hold_id: narrowed}
    assert not holds_in(store)
    assert not told


def test_it_is_refreshed_every_third_of_its_term(store: TestedStore, clock: Now, holding: Holding) -> None:
    holding.place()
    for counter in range(1, 7):
        assert holds_in(store)[holding.hold_id].counter == counter
        clock.passes(HOLD_TERM_SECONDS / 3 - 1)
        holding.look()
        assert holds_in(store)[holding.hold_id].counter == counter
        clock.passes(1)
        holding.look()


def test_a_store_that_is_away_is_tried_until_it_is_back(
    store: TestedStore, clock: Now, holding: Holding, told: list[str]
) -> None:
    holding.place()
    store.before = failing(AWAY, 10**6)
    for _ in range(40):
        clock.passes(HOLD_TERM_SECONDS / 30)
        holding.look()
    holding.check()
    assert len(told) == 1
    assert "term passed" in told[0]
    store.before = lambda: None
    clock.passes(HOLD_TERM_SECONDS / 30)
    holding.look()
    holding.check()
    assert holds_in(store)[holding.hold_id] == holding.hold
    assert len(told) == 1


def test_an_entry_that_is_gone_is_told_and_never_put_back(
    store: TestedStore, clock: Now, holding: Holding
) -> None:
    holding.place()
    lost = holding.hold_id
    write_holds(store, {})
    holding.check()  # nobody knows yet
    clock.passes(HOLD_TERM_SECONDS)
    holding.look()
    with pytest.raises(HoldLost, match=lost[:8]):
        holding.check()
    holding.look()
    assert not holds_in(store)
    holding.place()
    holding.check()
    assert list(holds_in(store)) == [holding.hold_id] != [lost]
    holding.drop()
    assert not holds_in(store)


def test_narrowing_what_is_gone(store: TestedStore, holding: Holding) -> None:
    holding.place()
    write_holds(store, {})
    with pytest.raises(HoldLost):
        holding.narrow(CUT, LEDGER)
    assert not holds_in(store)


def test_what_could_not_be_narrowed_is_with_the_next_refresh(
    store: TestedStore, clock: Now, holding: Holding, told: list[str]
) -> None:
    holding.place()
    store.before = failing(AWAY, 10**6)
    holding.narrow(CUT, LEDGER)
    assert "could not be narrowed" in told[0]
    assert holds_in(store)[holding.hold_id].cut is None
    store.before = lambda: None
    clock.passes(HOLD_TERM_SECONDS)
    holding.look()
    assert (holds_in(store)[holding.hold_id].cut, holds_in(store)[holding.hold_id].ledger) == (CUT, LEDGER)


@pytest.mark.parametrize(
    ("error", "keeps", "left"),
    [
        (None, True, False),
        (DamagedObject("x", "y"), False, False),
        (DamagedObject("x", "y"), True, True),
        (KeyboardInterrupt(), False, False),
        (KeyboardInterrupt(), True, True),
        (AWAY, False, True),
    ],
)
def test_how_a_job_ends_decides_whether_its_hold_stays(
    store: TestedStore, holding: Holding, error: BaseException | None, keeps: bool, left: bool
) -> None:
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)), holding:
        holding.place()
        holding.keeps = keeps
        if error is not None:
            raise error
    assert bool(holds_in(store)) == left


def test_a_hold_that_cannot_be_dropped_is_left_to_its_term(
    store: TestedStore, holding: Holding, told: list[str]
) -> None:
    with holding:
        holding.place()
        store.before = failing(AWAY, 10**6)
    assert "dies after its term" in told[0]


# --- going on with the hold of an interrupted run ------------------------------------------------


def test_it_is_taken_up_again_by_its_id(store: TestedStore, clock: Now, told: list[str]) -> None:
    entropy = Entropy()
    before = reader(store, clock, told, entropy)
    before.place()
    before.narrow(CUT, LEDGER)
    again = reader(store, clock, told, entropy)
    store.after = failing(AWAY)
    again.place(["0" * 32, before.hold_id], (3, 1))
    assert before.hold is not None
    assert again.hold_id == before.hold_id
    assert holds_in(store) == {before.hold_id: replace(before.hold, counter=3)}
    assert again.hold == replace(before.hold, counter=3)


@pytest.mark.parametrize("why", ["gone", "everything", "another point", "no point", "an operator's"])
def test_what_cannot_be_gone_on_with_is_held_anew(
    store: TestedStore, clock: Now, told: list[str], why: str
) -> None:
    entropy = Entropy()
    before = reader(store, clock, told, entropy)
    before.place()
    if why != "everything":
        before.narrow(CUT, LEDGER)
    if why == "gone":
        write_holds(store, {})
    if why == "an operator's":
        write_holds(store, {before.hold_id: replace(holds_in(store)[before.hold_id], until_ns=1)})
    again = reader(store, clock, told, entropy)
    point = {"another point": (3, 2), "no point": None}.get(why, (3, 1))
    again.place([before.hold_id], point)
    assert again.hold_id != before.hold_id
    assert holds_in(store)[again.hold_id].cut is None


# --- the roster itself -----------------------------------------------------------------------------


def test_a_roster_that_vanishes_under_a_change(store: TestedStore, clock: Now) -> None:
    def vanish() -> None:
        store.delete(HOLDS_KEY)

    store.before = vanish
    with pytest.raises(MissingObject, match="no roster"):
        change_roster(store, DOMAIN, lambda holds: {}, clock, Entropy())


@pytest.mark.parametrize("data", [None, b"junk", "sound"])
def test_an_operator_writes_an_empty_roster(store: TestedStore, data: bytes | str | None) -> None:
    if data == "sound":
        write_holds(store, samples.holds().holds)
    else:
        store.delete(HOLDS_KEY)
    if isinstance(data, bytes):
        store.put_new(HOLDS_KEY, data)
    renew_roster(store, DOMAIN, Entropy())
    assert not holds_in(store)
    assert read_roster(store, DOMAIN).holds.version == (100 if data == "sound" else 1)


def test_pauses_are_bounded() -> None:
    pauses = [roster.pause_seconds(tries, Entropy()) for tries in range(1, TRIES_MAX + 1)]
    assert min(pauses) > 0
    assert max(pauses) <= roster.PAUSE_SECONDS_MAX
