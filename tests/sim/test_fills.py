"""Volumes that are filled from outside, through many storms: no cut amid a copy counts as whole."""

from __future__ import annotations

import pytest

from tests.sim.fill_world import fill_world_of
from tests.sim.test_streamer import STORY_SECONDS

pytestmark = pytest.mark.sim

SEEDS = 20
"""Fewer than of other stories: all but the copies is theirs, too."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_storm(seed: int) -> None:
    with fill_world_of(seed) as world:
        world.play(STORY_SECONDS)
