"""Locks are extended in time, for what is needed alone; what the store keeps is not tried again too soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.collector import process
from cdp_agent.collector.lock_note import (
    NOTE_NAME,
    LockNote,
    load_note,
    save_note,
    still_locked,
    trouble_of_locks,
)
from cdp_agent.collector.locks import Lock, due, extend_locks, needed_of, refused_by
from cdp_container.errors import AccessDenied, NotFound, StoreUnavailable
from cdp_container.format.keys import parse_key
from tests.unit.collector.collecting_site import WISHES, CollectedSite

DAY_NS = 86_400 * 10**9
LOCK = Lock("COMPLIANCE", 10 * 86_400)
NOW_NS = 100 * DAY_NS


class Bucket:
    """Notes what is asked; fails where it is told to."""

    def __init__(self, **fails: Exception) -> None:
        self.fails = fails
        self.until: dict[str, int] = {}

    def extend(self, key: str, mode: str, until_ns: int) -> None:
        assert mode == "COMPLIANCE"
        if key in self.fails:
            raise self.fails[key]
        self.until[key] = until_ns


def ages(**days: float) -> dict[str, int]:
    return {key: NOW_NS - int(old * DAY_NS) for key, old in days.items()}


def test_half_a_lock_is_the_time_to_extend() -> None:
    needed = ages(young=0, half=5, older=5.1, ended=11)
    assert due(needed, LockNote(), LOCK, NOW_NS) == ["ended", "older"]
    noted = LockNote(extended={"older": NOW_NS + 6 * DAY_NS, "ended": NOW_NS + 4 * DAY_NS})
    assert due(needed, noted, LOCK, NOW_NS) == ["ended"]


def test_what_is_due_gets_a_whole_lock_and_what_is_not_needed_is_forgotten() -> None:
    bucket = Bucket()
    note = LockNote(extended={"gone": NOW_NS, "older": NOW_NS + DAY_NS})
    after = extend_locks(bucket, ages(young=1, older=9), note, LOCK, NOW_NS)
    assert bucket.until == {"older": NOW_NS + 10 * DAY_NS}
    assert after.extended == bucket.until
    assert after.soonest_ns == NOW_NS + 9 * DAY_NS, "the young one's"
    again = Bucket()
    assert extend_locks(again, ages(young=1, older=9), after, LOCK, NOW_NS) == after
    assert not again.until


def test_a_store_that_goes_away_leaves_the_rest_to_the_next_pass() -> None:
    needed = ages(a=9, b=8, c=7)
    bucket = Bucket(b=StoreUnavailable("lock b", "no answer"))
    after = extend_locks(bucket, needed, LockNote(), LOCK, NOW_NS)
    assert list(after.extended) == ["a"]
    assert after.soonest_ns == NOW_NS + 2 * DAY_NS
    after = extend_locks(Bucket(b=NotFound("lock b", "gone")), needed, after, LOCK, NOW_NS)
    assert set(after.extended) == {"a", "c"}
    with pytest.raises(AccessDenied):
        extend_locks(Bucket(b=AccessDenied("lock b", "no")), needed, after, LOCK, NOW_NS)


def test_what_was_stored_under_a_shorter_default_ends_sooner() -> None:
    needed = ages(old=8, young=0)
    first = extend_locks(Bucket(), needed, LockNote(), LOCK, NOW_NS - 4 * DAY_NS)
    assert not first.extended
    longer = Lock("COMPLIANCE", 60 * 86_400)
    bucket = Bucket()
    after = extend_locks(bucket, needed | ages(next=-1), first, longer, NOW_NS)
    assert (after.since_ns, after.before_seconds) == (NOW_NS, LOCK.seconds)
    assert bucket.until == {"old": NOW_NS + longer.ns}
    assert after.soonest_ns == NOW_NS + longer.ns
    shorter = extend_locks(Bucket(), needed, after, Lock("COMPLIANCE", 5 * 86_400), NOW_NS + DAY_NS)
    assert (shorter.lock_seconds, shorter.before_seconds) == (5 * 86_400, LOCK.seconds)


def test_what_could_not_be_deleted_waits_for_its_horizon() -> None:
    note = LockNote(refused={"past": NOW_NS - 1, "later": NOW_NS + DAY_NS})
    note = refused_by(note, {"known": NOW_NS + 5, "unknown": None}, NOW_NS, LOCK)
    assert note.refused == {"later": NOW_NS + DAY_NS, "known": NOW_NS + 5, "unknown": NOW_NS + LOCK.ns}
    assert set(still_locked(note, NOW_NS + 5)) == {"later", "unknown"}
    note = refused_by(note, {"unknown": None}, NOW_NS, None)
    assert note.refused["unknown"] == NOW_NS + DAY_NS, "the bucket's default is gone, and this lock is not"


@pytest.mark.parametrize(
    ("left_days", "said"), [(10, ""), (4.6, ""), (4.4, "the first ends in 4.4 days"), (-1, "have ended")]
)
def test_status_warns_at_half_of_the_horizon(left_days: float, said: str) -> None:
    note = LockNote(lock_seconds=LOCK.seconds, soonest_ns=NOW_NS + int(left_days * DAY_NS))
    trouble = trouble_of_locks(note, NOW_NS)
    assert said in trouble
    assert bool(said) == bool(trouble)
    assert not trouble_of_locks(LockNote(), NOW_NS)


def test_the_note_comes_back_and_a_broken_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "collector").mkdir()
    assert load_note(tmp_path) == LockNote()
    note = LockNote(5, 6, {"log/x": 7}, {"log/y": 8}, 9, 10)
    save_note(tmp_path, note)
    assert load_note(tmp_path) == note
    (tmp_path / "collector" / NOTE_NAME).write_bytes(b'{"lock_seconds": "x"}')
    assert load_note(tmp_path) == LockNote()


def test_a_pass_takes_nothing_that_is_locked_and_needs_what_stays(tmp_path: Path) -> None:
    site = CollectedSite()
    site.add_disk("disk", 300_000)
    site.begin_epoch()
    site.busy(30)
    refused = frozenset(found.key for found in site.store.list("log/") if found.key.endswith("1"))
    wishes = process._within(
        WISHES, Lock("COMPLIANCE", 6 * 3600), LockNote(refused=dict.fromkeys(refused, 1)), 0
    )
    passed = site.run_pass(tmp_path, wishes)
    assert passed.found is not None
    victims = set(passed.found.chosen.victims)
    assert victims
    assert not victims & refused
    stored = passed.found.inventory.found
    assert all(stored[key].modified_ns <= passed.store_ns - 7 * 3600 * 10**9 for key in victims)
    needed = needed_of(passed.found, is_carried_out=True)
    assert needed
    assert not victims & set(needed)
    assert set(passed.found.chosen.packed) <= set(needed_of(passed.found, is_carried_out=False))
    assert all(
        parse_key(key) is not None and site.store.head(key).modified_ns == at for key, at in needed.items()
    )
    site.sound(tmp_path / "out")
