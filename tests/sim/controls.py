"""How a negative control is seen to be caught, in any world. What is broken does not belong here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import pytest

from tests.sim.test_negative_controls import CAUGHT
from tests.sim.test_streamer import STORY_SECONDS


class Played(Protocol):
    """A simulated world."""

    def play(self, seconds: float) -> object:
        """Go on for so long; raises where it finds a fault."""
        ...


PlayedT = TypeVar("PlayedT", bound=Played)


def assert_caught(
    broken: Callable[[pytest.MonkeyPatch, PlayedT], None],
    world_of: Callable[[int], AbstractContextManager[PlayedT]],
    seeds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the stories of `seeds` seeds must find what `broken` does."""
    for seed in range(seeds):
        with monkeypatch.context() as patch, world_of(seed) as world:
            broken(patch, world)
            try:
                world.play(STORY_SECONDS)
            except CAUGHT:
                return
    raise AssertionError(f"{seeds} seeds, and {broken.__name__} was not caught")
