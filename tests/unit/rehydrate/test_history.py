"""`rehydrate history`: every epoch that counts, and the chain of digests across them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.format.domain import OwnerState, build_epoch_record, parse_epoch_record
from cdp_container.format.keys import epoch_key, segment_key
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site, busy_container
from tests.unit.rehydrate.conftest import Run, answer, damage


@pytest.fixture
def site(place: Path) -> Site:
    return busy_container(DirectoryStore(place))


def test_a_missing_record_is_no_history(run: Run, site: Site, place: Path) -> None:
    (place / epoch_key(2)).unlink()
    code, stdout, stderr = run("history", place)
    assert (code, stdout) == (21, "")
    assert epoch_key(2) in stderr


def test_a_lost_segment_breaks_the_chain_of_its_epoch_and_all_is_still_shown(
    run: Run, site: Site, place: Path
) -> None:
    (place / segment_key(2, 1)).unlink()
    code, stdout, stderr = run("history", place)
    assert code == 27
    assert segment_key(2, 1) in stdout.splitlines()[3]
    assert len(stdout.splitlines()) == 2 + 3, "a line for the owner, one of titles, one for each epoch"
    assert "error: the history is no whole chain: epochs: 2" in stderr


def test_a_damaged_segment_breaks_the_chain(run: Run, site: Site, place: Path) -> None:
    damage(place, segment_key(1, 4), at=10)
    code, stdout, _ = run("history", place)
    assert code == 27
    assert [("BROKEN" in line) for line in stdout.splitlines()[2:]] == [True, False, False]


def test_every_epoch_that_counts(run: Run, site: Site, place: Path) -> None:
    found = answer(run, "history", place)
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 6], "numbers were left out by a takeover"
    assert [epoch["base"] for epoch in found["epochs"]] == [None, "1.3", "2.3"]
    assert [epoch["last_cut"] for epoch in found["epochs"]] == ["1.4", "2.3", "6.2"]
    assert [epoch["side_branch"] for epoch in found["epochs"]] == [True, False, False]
    assert [epoch["fault"] for epoch in found["epochs"]] == [None] * 3
    assert found["epochs"][0]["until_ns"] == found["epochs"][1]["from_ns"]
    assert found["epochs"][-1]["until"] is None
    assert (found["owner"]["state"], found["owner"]["epoch"]) == ("active", 6)
    assert found["domain"] == site.domain.hex()


def test_the_same_for_people(run: Run, site: Site, place: Path) -> None:
    code, stdout, _ = run("history", place)
    lines = stdout.splitlines()
    assert code == 0
    assert lines[0].startswith(f"owner: {site.owner.site}, active, epoch 6, since ")
    assert lines[1].split()[:2] == ["EPOCH", "SITE"]
    assert lines[2].endswith("sound, ends in a side branch")
    assert [line.endswith("  sound") for line in lines[3:]] == [True, True]


def test_what_a_losing_zone_wrote_is_told_and_not_merged(run: Run, site: Site, place: Path) -> None:
    assert answer(run, "history", place)["not_merged"] == []
    key = epoch_key(6)
    taken = parse_epoch_record(site.store.get(key).data, key, None)
    site.store.delete(key)
    site.store.put_new(key, build_epoch_record(replace(taken, unsynchronised=True)))
    lost = replace(taken, epoch=4, previous=2, site="site-z\x1b[2J")
    site.store.put_new(epoch_key(4), build_epoch_record(lost))
    for seq in (1, 2, 3):
        site.store.put_new(segment_key(4, seq), b"what the other zone wrote")
    site.store.put_new(epoch_key(5), build_epoch_record(replace(lost, epoch=5)))  # came to nothing
    found = answer(run, "history", place)
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 6]
    told = [(one["epoch"], one["segments"], one["after"]) for one in found["not_merged"]]
    assert told == [(2, 1, 4), (4, 3, 0)], "beyond an end that did not know of it; and outside of the chain"
    code, stdout, _ = run("history", place)
    assert code == 0
    assert "not merged, and part of no recovery point" in stdout
    assert stdout.splitlines()[-1].split()[:2] == ["4", "site-z\\x1b[2J"]


def test_a_claim_is_told_and_does_not_count_yet(run: Run, site: Site, place: Path) -> None:
    site.write_owner(epoch=7, previous=6, state=OwnerState.CLAIMING, site="site-b")
    found = answer(run, "history", place)
    assert (found["owner"]["site"], found["owner"]["state"]) == ("site-b", "claiming")
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2, 6]


def test_nothing_protected_yet(run: Run, empty: Site, place: Path) -> None:
    empty.write_owner()
    code, stdout, _ = run("history", place)
    assert code == 0
    assert "protected up to nothing yet" in stdout
    assert "nothing was ever protected" in stdout
