"""Holds of which nobody can tell what they need: what that may be stays; the pass goes on, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.cli.gc import passed_members, passed_text, planned_text
from cdp_agent.collector.pass_types import Passed
from cdp_container.errors import StoreUnavailable
from cdp_container.format.domain import ObjectName
from cdp_container.format.keys import ledger_key, segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Blob
from tests.containers import write
from tests.unit.collector.collecting_site import HOUR, CollectedSite

pytestmark = pytest.mark.slow

HOLD = "ab" * 16
GONE = ObjectName(ledger_key(1, 99), bytes(32))


def a_site(cuts: int = 20) -> CollectedSite:
    site = CollectedSite(every_hours=2, seed=4)
    site.add_disk("disk", 1 << 18)
    site.begin_epoch()
    site.busy(cuts)
    return site


def keys_of(site: CollectedSite) -> set[str]:
    return {found.key for prefix in ("log/", "packs/") for found in site.store.list(prefix)}


def named(passed: Passed) -> str:
    """What is said of the hold, by the command, for people and for programs."""
    assert passed.found is not None
    [doubt] = passed.found.doubts
    assert "abababab" in doubt
    assert "'site-b'" in doubt
    assert doubt in "\n".join(passed_text(passed))
    assert doubt in "\n".join(planned_text(passed.found))
    assert passed_members(passed)["doubts"] == [doubt]
    return doubt


def test_a_hold_on_a_cut_beyond_an_end_ends_no_pass_and_keeps_what_it_may_need(tmp_path: Path) -> None:
    """Its reader took the newest cut, and a takeover by force ended the epoch before it."""
    site = a_site()
    disk = site.disks[0][0]
    beyond = site.zombie([write(disk, 0, b"late")])
    site.hold(HOLD, beyond)
    site.begin_epoch()
    site.time.sleep(3 * HOUR)
    site.busy(20)
    site.time.sleep(3 * HOUR)
    site.busy(6)
    needed = {segment_key(1, seq) for seq in range(1, beyond.seq + 1)}
    passed = site.run_pass(tmp_path)
    assert passed.finished is not None, "the others' garbage goes"
    assert passed.finished.deleted > 5
    assert f"cut {beyond.epoch}.{beyond.cut}" in named(passed)
    assert needed <= keys_of(site)
    site.sound(tmp_path / "out", most=4)
    site.unhold()
    site.busy(3)
    after = site.run_pass(tmp_path)
    assert after.found is not None
    assert not after.found.doubts
    assert not needed <= keys_of(site)
    assert segment_key(1, beyond.seq) not in keys_of(site)
    site.sound(tmp_path / "out", most=4)


def test_a_hold_in_an_unknown_epoch_keeps_every_segment_up_to_it(tmp_path: Path) -> None:
    site = a_site()
    site.begin_epoch()
    site.busy(20)
    site.hold(HOLD, Place(7, 3, 10**11))
    before = keys_of(site)
    passed = site.run_pass(tmp_path)
    assert passed.found is not None
    assert passed.why_not == "there is nothing to collect"
    named(passed)
    assert before <= keys_of(site)


def test_a_hold_that_notes_a_ledger_that_is_gone_keeps_packs_and_what_was_collected(tmp_path: Path) -> None:
    site = a_site()
    site.run_pass(tmp_path)
    packs = {key for key in keys_of(site) if key.startswith("packs/")}
    assert packs
    cut = sorted(set(site.images) - site.gone)[1]
    site.hold(HOLD, cut, GONE)
    site.begin_epoch()
    site.time.sleep(3 * HOUR)
    site.busy(20)
    site.time.sleep(3 * HOUR)
    site.busy(6)
    passed = site.run_pass(tmp_path)
    assert passed.finished is not None
    assert GONE.key in named(passed)
    assert packs <= keys_of(site)
    assert passed.found is not None
    assert not {segment_key(1, seq) for seq in range(1, cut.seq + 1)} & set(passed.found.chosen.victims)
    site.sound(tmp_path / "out", most=4)
    site.unhold()
    site.busy(3)
    site.run_pass(tmp_path)
    assert not packs <= keys_of(site)
    site.sound(tmp_path / "out", most=4)


def test_a_ledger_that_cannot_be_asked_for_is_no_doubt_but_the_end_of_the_pass(tmp_path: Path) -> None:
    site = a_site()
    site.hold(HOLD, max(site.images), GONE)
    read = site.watched.get

    def get(key: str) -> Blob:
        if key == GONE.key:
            raise StoreUnavailable(key, "503")
        return read(key)

    site.watched.get = get  # type: ignore[method-assign]  # the network
    with pytest.raises(StoreUnavailable):
        site.run_pass(tmp_path)
    assert site.owner.ledger is None
