"""Volumes and a file tree through many storms: where all is whole, a cut is one instant of both."""

from __future__ import annotations

import pytest

from tests.sim.test_streamer import STORY_SECONDS
from tests.sim.tree_world import tree_world_of

pytestmark = pytest.mark.sim


def test_a_storm(sim_seed: int) -> None:
    with tree_world_of(sim_seed) as world:
        world.play(STORY_SECONDS)
