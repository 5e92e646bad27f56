"""The imager over random failures, restarts and epochs: what is called whole is what the disks held."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.imager.model import World, small

STEPS = 400
SEEDS = 24


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_that_was_written_is_forgotten(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    world = World(tmp_path, seed, vms=1 + seed % 2, failing=(0.0, 0.002, 0.004)[seed % 3])
    world.begin()
    for _ in range(STEPS):
        world.step()
    world.imager.close()
    assert world.whole > 5, "it was whole now and then"
