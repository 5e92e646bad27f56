"""Passes of a failback while the other site collects: each under a hold, and anew where objects moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_container.errors import MissingObject
from cdp_container.format.holds import Hold
from cdp_container.format.keys import HOLDS_KEY, segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Store
from rehydrate import restore
from rehydrate.plan import Choice
from tests import rosters
from tests.containers import in_force
from tests.overtaken import Overtaken
from tests.unit.rehydrate.test_failback import BLOCK, world


@pytest.fixture
def made(tmp_path: Path) -> Overtaken:
    """Both sites wrote since; the first two of the other one's three cuts may be collected."""
    made = world(tmp_path)
    made.write("disk", 60 * BLOCK, b"x" * BLOCK)
    made.stop()
    made.other_takes_over()
    for block in (30, 100, 200):
        made.other_writes("disk", block * BLOCK, bytes([block]) * BLOCK)
    made.other_cut()
    for _ in range(2):
        made.other_writes("disk", 10 * BLOCK, b"z" * BLOCK)
        made.site.protect(made.other_cut())
    return made


def give_roster(made: Overtaken) -> None:
    rosters.give_roster(made.store, made.site.domain)


def holds_in(made: Overtaken) -> dict[str, Hold]:
    return rosters.holds_in(made.store, made.site.domain)


def at_first_fetch(monkeypatch: pytest.MonkeyPatch, hook: Callable[[], None]) -> None:
    """Before the first frame is fetched, once."""
    real, done = restore.fetched, [False]

    def get(store: Store, key: str, start: int, length: int, tolerant: bool) -> memoryview | MissingObject:
        if not done[0]:
            done[0] = True
            hook()
        return real(store, key, start, length, tolerant)

    monkeypatch.setattr(restore, "fetched", get)


def collect(made: Overtaken) -> None:
    pack = made.site.pack(2, 1, 2)
    made.site.write_ledger([made.site.run(2, 1, 2), in_force(pack)])
    for seq in (1, 2):
        made.store.delete(segment_key(2, seq))


def test_what_is_collected_under_a_pass_that_holds_nothing_is_found(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first_fetch(monkeypatch, lambda: collect(made))
    place = made.fail_back()
    made.assert_disks_are(place)
    assert place == Place(2, 3, 3)
    assert any("looked for anew" in line for line in made.said)
    assert len(made.unheld) == 1


def test_what_is_lost_is_lost(made: Overtaken, monkeypatch: pytest.MonkeyPatch) -> None:
    at_first_fetch(monkeypatch, lambda: made.store.delete(segment_key(2, 1)))
    with pytest.raises(MissingObject):
        made.fail_back()


def test_each_pass_holds_its_cut_and_lets_go(made: Overtaken, monkeypatch: pytest.MonkeyPatch) -> None:
    give_roster(made)
    seen: list[Hold] = []
    at_first_fetch(monkeypatch, lambda: seen.extend(holds_in(made).values()))
    with made.failback() as run:
        place = run.pass_to(Choice())
        assert [(hold.cut, hold.purpose) for hold in seen] == [(place, "failback")]
        assert holds_in(made) == {}
        assert run.pass_to(Choice()) == place
        assert holds_in(made) == {}
    made.assert_disks_are(place)
    assert made.unheld == []


def test_a_hold_that_is_taken_out_under_a_pass_is_placed_anew(
    made: Overtaken, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_roster(made)
    with made.failback() as run:
        holding = run._holding

        def lose() -> None:
            made.store.delete(HOLDS_KEY)
            give_roster(made)
            monkeypatch.setattr("cdp_container.domain.holding.refresh_due", lambda *_: True)
            holding.look()
            collect(made)

        at_first_fetch(monkeypatch, lose)
        place = run.pass_to(Choice())
        made.assert_disks_are(place)
        assert holds_in(made) == {}
    assert any("looked for anew" in line for line in made.said)
