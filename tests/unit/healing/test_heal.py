"""What is damaged and can still be had is healed by packs, byte for byte; nothing else ever passes for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cdp_agent.healing.heal import Here, Outcome
from cdp_container.clock import SystemClock
from cdp_container.domain.history import read_domain, read_history
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.verify_run import verify_all
from cdp_container.errors import CollectionStopped, PreconditionFailed
from cdp_container.format.keys import segment_key
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.memory import MemoryStore
from rehydrate.container import Container
from tests.containers import Site, write
from tests.unit.collector.collecting_site import Crash, Effects
from tests.unit.healing.healing_site import HealedSite

pytestmark = pytest.mark.slow


def findings(site: HealedSite) -> set[str]:
    """What recovery points need, and a verification with all keys finds wrong."""
    keys = site.reader_keys()
    facts = read_domain(site.store)
    ledger = read_ledger(site.store, facts.owner, keys)
    container = Container(site.store, read_history(site.store, facts), keys, site.encrypted, ledger)
    report = verify_all(container, lambda *_: lambda _: None)
    return {finding.key for finding in report.findings if finding.needed}


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> HealedSite:
    """Five cuts of four blocks each; the first two wrote nothing that a later one wrote again."""
    site = HealedSite(tmp_path, bool(request.param))
    for first in (0, 4, 8, 12, 16):
        site.blocks(*range(first, first + 4))
    site.blocks(12, 20)
    return site


def assert_healed(site: HealedSite, *keys: str) -> None:
    assert findings(site) == set()
    site.sound(site.directory / "restored", retired=[])
    assert {key for key in keys if not list(site.store.list(key))} == set()


# --- what can be healed -----------------------------------------------------------------------------------


def test_a_damaged_segment_is_healed_by_the_volume(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key)
    before = site.store.get(key).data
    assert findings(site) == {key}
    healed = site.heal(key)
    assert [(one.key, one.why_not, one.found_bytes) for one in healed.outcomes] == [(key, "", 4 * 4096)]
    assert healed.is_done
    assert site.store.get(key).data == before, "nothing is written over it"
    assert_healed(site)


def test_several_at_once_and_again_later(site: HealedSite) -> None:
    site.damage(segment_key(1, 1))
    site.damage(segment_key(1, 3))
    assert len(site.heal(segment_key(1, 1), segment_key(1, 3)).outcomes) == 2
    assert_healed(site)
    site.damage(segment_key(1, 2))
    assert site.heal(segment_key(1, 2)).is_done
    assert_healed(site)


@pytest.mark.parametrize("kind", ["gone", "short", "empty", "preamble", "other"])
def test_one_whose_head_a_catalog_bundles(site: HealedSite, kind: str) -> None:
    key = segment_key(1, 2)
    site.catalog([segment_key(1, seq) for seq in (1, 2, 3)])
    data = site.store.get(key).data
    if kind == "gone":
        site.store.delete(key)
    elif kind == "preamble":
        site.damage(key, at=60)
    else:
        other = site.store.get(segment_key(1, 3)).data
        site.replace(key, {"short": data[:-5], "empty": b"", "other": other}[kind])
    # A listing and heads tell of the others: no verification is needed.
    known = [key] if kind in ("preamble", "other") else []
    healed = site.heal(*known)
    assert [(one.key, one.why_not) for one in healed.outcomes] == [(key, "")]
    assert_healed(site)


def test_neighbours_name_each_other_as_long_as_their_preambles_are_there(site: HealedSite) -> None:
    keys = [segment_key(1, seq) for seq in (1, 2, 3)]
    for key in keys:
        site.damage(key)
    assert [one.why_not for one in site.heal(*keys).outcomes] == ["", "", ""]
    assert_healed(site)


def test_a_trailer_alone(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key, at=-1)
    outcome = site.heal(key).outcomes[0]
    assert (outcome.why_not, outcome.lost_bytes) == ("", 0)
    assert_healed(site)


def test_a_damaged_pack_is_replaced(site: HealedSite) -> None:
    site.collect(1, 1, 3)
    site.write_owner()
    pack = next(found.key for found in site.store.list("packs/") if "ledger" not in found.key)
    site.damage(pack)
    assert findings(site) == {pack}
    assert site.heal(pack).is_done
    assert_healed(site)


def test_a_lost_first_segment_is_remembered_with_its_epoch(site: HealedSite) -> None:
    site.catalog([segment_key(1, 1)])
    site.store.delete(segment_key(1, 1))
    assert site.heal().is_done
    assert_healed(site)


def test_records_zeros_and_odd_extents_survive(tmp_path: Path) -> None:
    site = HealedSite(tmp_path)
    for _ in range(3):
        site.busy(1)
    site.resize(site.disk, 60 * 4096)
    site.time.sleep(60)
    site.cut([write(site.disk, 0, site.rng.randbytes(8192))], marker="resized")
    site.blocks(1)
    site.blocks(2)
    key = next(key for place in site.images for key in [segment_key(1, place.seq)] if place.cut == 4)
    site.damage(key, at=-1)  # all its frames are sound: whatever it holds is healed
    assert site.heal(key).is_done
    assert findings(site) == set()
    site.sound(tmp_path / "restored", retired=[])


# --- what cannot be healed, and what must not pass for it -------------------------------------


def refused(site: HealedSite, key: str, outcomes: list[Outcome]) -> str:
    """Nothing was healed; gives why."""
    assert [one.key for one in outcomes] == [key]
    assert outcomes[0].why_not
    assert outcomes[0].pack is None
    assert key in findings(site)
    assert site.owner.plan is None
    return outcomes[0].why_not


def test_what_was_overwritten_since_is_not_found(site: HealedSite) -> None:
    """Block 12 was written again: of the other three all is there, and it is still not healed."""
    key = segment_key(1, 4)
    site.damage(key)
    healed = site.heal(key)
    assert not healed.is_done
    assert "4096 bytes of it are nowhere" in refused(site, key, healed.outcomes)
    assert healed.outcomes[0].found_bytes == 3 * 4096
    assert list(site.store.list("packs/")) == []


def test_content_of_the_same_length_is_never_taken(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key)
    image = bytearray(site.images[max(site.images)][site.disk])
    for content in (bytes(len(image)), site.rng.randbytes(len(image)), bytes(image[4096:]) + bytes(4096)):
        refused(site, key, site.heal(key, here=site.here(content)).outcomes)
    image[5 * 4096] ^= 1
    refused(site, key, site.heal(key, here=site.here(bytes(image))).outcomes)


def test_bytes_that_no_checksum_covers_are_not_taken_from_a_volume(site: HealedSite) -> None:
    site.time.sleep(60)
    site.cut([write(site.disk, 30 * 4096 + 512, b"odd" * 100)])
    site.blocks(40)
    site.blocks(41)
    key = segment_key(1, 7)
    site.damage(key)
    refused(site, key, site.heal(key).outcomes)


def test_without_a_volume_there_is_nothing(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key)
    refused(site, key, site.heal(key, here=Here({})).outcomes)
    refused(site, key, site.heal(key, here=Here({site.disk: site.directory / "gone"})).outcomes)


@pytest.mark.parametrize("kind", ["gone", "preamble", "short"])
def test_one_whose_head_nobody_has(site: HealedSite, kind: str) -> None:
    key = segment_key(1, 2)
    if kind == "gone":
        site.store.delete(key)
    elif kind == "preamble":
        site.damage(key, at=60)
    else:
        site.replace(key, site.store.get(key).data[:-5])
    refused(site, key, site.heal(key).outcomes)


def test_a_sound_segment_of_another_history_lends_no_head(site: HealedSite) -> None:
    """It follows the same segment, and is what a cloned host wrote: nothing of it is ours."""
    other = HealedSite(site.directory, site.encrypted)
    for first in (0, 4, 8):
        other.blocks(*range(first, first + 4))
    key = segment_key(1, 2)
    foreign = Site(MemoryStore(SystemClock()), seed=0, encrypted=site.encrypted)
    foreign.add_volume("disk", 64 * 4096)
    foreign.begin_epoch()
    foreign.cut([write(site.disk, 4 * 4096, b"x" * 4096)])
    foreign.cut([write(site.disk, 4 * 4096, b"y" * 4096)])
    site.replace(key, foreign.store.get(key).data)
    assert any("cannot prove" in one.why_not for one in site.heal(key).outcomes if one.key == key)
    assert not site.heal(key).is_done


def test_what_is_not_protected_yet_is_left(site: HealedSite) -> None:
    key = segment_key(1, 6)
    site.damage(key)
    assert "nobody knows its digest" in refused(site, key, site.heal(key).outcomes)


def test_an_epochs_end_is_healed_where_writers_can_still_go_by_it(site: HealedSite) -> None:
    """Its preamble and its trailer are read by its name, whatever the ledger says."""
    key = segment_key(1, 6)
    site.begin_epoch()
    site.blocks(50)
    site.blocks(51)
    site.catalog([key])
    data = site.store.get(key).data
    site.damage(key, at=-1)
    assert "writers read it by its name" in refused(site, key, site.heal(key).outcomes)
    site.store.delete(key)
    assert "writers read it by its name" in refused(site, key, site.heal(key).outcomes)
    site.store.put_new(key, data)
    site.damage(key)
    assert site.heal(key).is_done
    assert_healed(site)


# --- the protocol ---------------------------------------------------------------------------------------


def test_a_look_changes_nothing(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key)
    before = {found.key for found in site.store.list("")}
    healed = site.heal(key, plan_only=True)
    assert [(one.key, one.why_not, one.pack) for one in healed.outcomes] == [(key, "", None)]
    assert not healed.is_done
    assert {found.key for found in site.store.list("")} == before


def test_what_is_sound_is_left_alone(site: HealedSite) -> None:
    healed = site.heal(segment_key(1, 2), "domain/owner", "readme", segment_key(9, 9))
    assert (healed.outcomes, healed.is_done) == ([], False)


def test_nothing_is_named_while_somebody_holds_everything(site: HealedSite) -> None:
    site.damage(segment_key(1, 2))
    site.hold("ab" * 16, None)
    with pytest.raises(CollectionStopped, match="hold on everything"):
        site.heal(segment_key(1, 2))


def test_nothing_is_written_that_a_replica_would_keep_from_coming_into_force(site: HealedSite) -> None:
    """Nor does it wait there for what is damaged here."""
    site.damage(segment_key(1, 2))
    copy, skipped = MemoryStore(site.time), {segment_key(1, 2), segment_key(1, 3)}

    def copied() -> None:
        for found in site.watched.list(""):
            if found.key not in skipped:
                with contextlib.suppress(PreconditionFailed):
                    copy.put_new(found.key, site.watched.get(found.key).data)

    site.replicas = [copy]
    before = {found.key for found in site.watched.list("packs/")}
    with pytest.raises(CollectionStopped, match="does not name the ledger"):
        site.heal(segment_key(1, 2))
    copied()
    with pytest.raises(CollectionStopped, match=f"has not got {segment_key(1, 3)} yet"):
        site.heal(segment_key(1, 2))
    assert before == {found.key for found in site.watched.list("packs/")}
    skipped.remove(segment_key(1, 3))
    sleep = site.time.sleep

    def lagging(seconds: float) -> None:
        sleep(seconds)
        copied()

    site.time.sleep = lagging  # type: ignore[method-assign]  # the copy goes on while one waits
    assert site.heal(segment_key(1, 2)).is_done


def test_a_reader_of_one_cut_goes_on(site: HealedSite) -> None:
    site.damage(segment_key(1, 2))
    site.hold("ab" * 16, max(site.images), site.owner.ledger)
    assert site.heal(segment_key(1, 2)).is_done
    assert_healed(site)


def test_a_crash_anywhere_leaves_it_to_the_next_pass(tmp_path: Path) -> None:
    at = 0.0
    while True:
        folder = tmp_path / f"{at}"
        folder.mkdir()
        site = HealedSite(folder)
        for first in (0, 4, 8, 12):
            site.blocks(*range(first, first + 4))
        key = segment_key(1, 2)
        site.damage(key)
        effects = Effects(crash_at=at)
        try:
            site.heal(key, effects=effects)
        except Crash:
            site.heal(key)
            assert_healed(site)
            at += 0.5
            continue
        break
    assert at > 4


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("at", [60, 300, -1])
def test_collection_goes_on_whatever_part_of_it_is_damaged(
    site: HealedSite, at: int, remembers: bool
) -> None:
    key = segment_key(1, 2)
    site.catalog([key])
    if remembers:
        site.run_pass(site.directory / "passes")
    site.damage(key, at=at)
    assert site.heal(key).is_done
    site.time.sleep(7200)
    site.run_pass(site.directory / "passes")
    assert key not in {found.key for found in site.store.list("log/")}
    assert_healed(site)
    site.run_pass(site.directory / "another that remembers nothing")
    assert_healed(site)


def test_collection_goes_on_after_it_and_takes_the_damaged_object(site: HealedSite) -> None:
    key = segment_key(1, 2)
    site.damage(key)
    assert site.heal(key).is_done
    site.time.sleep(7200)
    passed = site.run_pass(site.directory / "passes")
    assert passed.finished is not None
    assert key not in {found.key for found in site.store.list("log/")}
    assert_healed(site)
    assert parse_preamble(site.store.get(segment_key(1, 6)).data, "x").complete
