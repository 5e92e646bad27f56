"""Whole passes over a container: whatever ends one, every retained cut restores byte for byte afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cdp_agent.collector.collect import Wishes
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Crash, Effects


def a_site(encrypted: bool = False, seed: int = 0, cuts: int = 30) -> CollectedSite:
    """Ten hours of writes on two disks, of which four are kept."""
    site = CollectedSite(encrypted, seed)
    site.add_disk("disk", 300_000)
    site.add_disk("log", 60_000)
    site.begin_epoch()
    site.busy(cuts)
    return site


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_pass_frees_what_no_retained_cut_shows(tmp_path: Path, encrypted: bool) -> None:
    site = a_site(encrypted)
    before = site.stored_bytes
    passed = site.run_pass(tmp_path)
    assert passed.finished is not None
    assert passed.finished.kept == 0
    assert len(site.gone) > 10
    assert site.stored_bytes < before
    site.sound(tmp_path / "out")
    assert site.owner.plan is None
    assert site.owner.ledger is not None


@pytest.mark.parametrize("seed", range(3))
def test_passes_amid_a_busy_life(tmp_path: Path, seed: int) -> None:
    """Epochs, side branches, resizes, volumes that come and go; a pass every few hours."""
    site = a_site(encrypted=seed == 0, seed=seed, cuts=10)
    collected = 0
    for number in range(8):
        if number == 2:
            site.resize(site.disks[0][0], 200_000)
            site.disks[0] = (site.disks[0][0], 200_000)
        if number == 3:
            site.resize(site.disks[0][0], 350_000)
            site.add_disk("spare", 50_000)
        if number == 4:
            site.begin_epoch(base=sorted(site.images)[-2])
        if number == 5:
            space, _ = site.disks.pop(1)
            site.remove(space)
        if number == 6:
            site.begin_epoch()
        site.busy(6)
        passed = site.run_pass(tmp_path, Wishes(private_key=site.private_key if number % 2 else None))
        collected += passed.finished.deleted if passed.finished is not None else 0
        site.sound(tmp_path / "out", most=4)
    site.sound(tmp_path / "out")
    assert collected > 20
    assert len(site.gone) > 20


def test_killed_at_any_step_and_the_next_pass_is_whole(tmp_path: Path) -> None:
    whole = Effects()
    a_site().run_pass(tmp_path / "whole", effects=whole)
    assert whole.count > 20
    ends = [half / 2 for half in range(2 * whole.count)]
    for at in [*ends[:8:2], *ends[8:-16:9], *ends[-16:]]:
        site, directory = a_site(cuts=20), tmp_path / f"at-{at}"
        with contextlib.suppress(Crash):
            site.run_pass(directory, effects=Effects(crash_at=at))
        executed = site.owner.ledger is not None
        if not executed:
            site.sound(directory / "out", most=2)
        site.time.sleep(2 * HOUR)
        site.busy(2)
        site.run_pass(directory)
        assert site.owner.plan is None
        retired = {place for place in site.images if site.is_retired(place)}
        assert retired
        site.sound(directory / "out", retired, most=3)
