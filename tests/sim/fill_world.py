"""A site whose volumes are filled from outside now and then, as `cdp-agent adopt` does, amid every storm.

Whatever guests write while a volume is filled counts as the copy. What cuts say of that is proven here; how
a copy is made does not belong here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from cdp_container.domain.owner_types import Phase
from tests.recovery import Recovery
from tests.sim.world import PASSPHRASE, World, must

EVERY_SECONDS = 12.0
AGAIN_SECONDS = 0.5


@dataclass
class Fill:
    """One copy: no cut that has more than `began` changes, and less than `ended`, has it as a whole."""

    source: int
    began: int
    ended: int | None = None


class FillWorld(World):
    """See the module. What is filled is drawn from a seed of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fill_rng = Random(self.seed)
        self.fills: list[Fill] = []
        self.checked = 0

    def play(self, seconds: float) -> None:
        for source in range(len(self.identity.sources)):
            self.time.after(self.fill_rng.uniform(0.1, 20.0), partial(self.fill, source))
        super().play(seconds)

    def fill(self, source: int) -> None:
        """An adoption begins, if the agent says that it noted it; else the same command again."""
        if self.quiet or self.ended:
            return
        answer = self.told("filling", source)
        fill = Fill(source, len(self.journal.changes))
        if answer is not None and answer["ok"]:
            self.fills.append(fill)
            self.time.after(self.fill_rng.expovariate(1 / 6), lambda: self.end_fill(fill))
        else:  # nothing is copied; it may be noted all the same, and then somebody accepts the volume
            self.time.after(AGAIN_SECONDS, lambda: self.end_fill(fill))

    def end_fill(self, fill: Fill) -> None:
        """The copy is over, and told again and again until it is noted."""
        if self.ended:
            return
        answer = self.told("filled", fill.source)
        if answer is None or not answer["ok"]:
            self.time.after(AGAIN_SECONDS, lambda: self.end_fill(fill))
            return
        fill.ended = len(self.journal.changes)
        after_seconds = self.fill_rng.choice((0.01, self.fill_rng.expovariate(1 / EVERY_SECONDS)))
        self.time.after(after_seconds, lambda: self.fill(fill.source))

    def told(self, command: str, source: int) -> dict[str, Any] | None:
        """What the agent answers; None where there is none, or it ended meanwhile."""
        engine, said = self.engine, []
        if engine is None:
            return None
        request = {"command": command, "vm": "shop", "volumes": [self.identity.sources[source].name]}
        self.drive(lambda: said.append(engine.filling.ask(request)))
        return said[0] if said else None

    def check(self) -> None:
        super().check()
        recovery = Recovery(self.store.inner, PASSPHRASE if self.identity.key_block else None)
        numbers = {place: self.journal.number_of(self._position_of(place)) for place in recovery.cuts}
        for fill in self.fills:
            space = self.identity.sources[fill.source].space
            until = len(self.journal.changes) + 1 if fill.ended is None else fill.ended
            amid = [place for place, number in numbers.items() if fill.began < number < until]
            for place in amid:
                must(not recovery.is_whole(space, place), f"{fill} and whole at {place} ({numbers[place]})")
            self.checked += len(amid)
        waits = self.engine is not None and self.engine.run.phase is Phase.ELSEWHERE
        if self.intruder is None and not waits:
            must(all(fill.ended is not None for fill in self.fills), "a copy never came to its end")
            must(all(one.ended for one in self.local.notes.filling), "a note stays")


@contextlib.contextmanager
def fill_world_of(seed: int, take_over_odds: float = 0.3) -> Iterator[FillWorld]:
    world = FillWorld(seed, take_over_odds)
    try:
        yield world
    finally:
        world.close()
