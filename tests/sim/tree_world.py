"""A site that protects a file tree beside its volumes: a cut at which all is whole is one instant of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from cdp_agent.streamer import steps
from cdp_agent.streamer.engine_types import Outside
from cdp_container.domain.identity import TreeIdentity
from cdp_container.journal.position import NOWHERE
from tests.recovery import Recovery
from tests.sim.trees import SimTree
from tests.sim.world import PASSPHRASE, World, must

LATE_POLLS_MAX = 45
"""Polls (five a second) for which a cut of the journal may be due and not taken, where only the watcher can
be why: a take and a place that hang, and what every job takes."""


@dataclass
class TreeWorld(World):
    """See the module. The tree draws from a seed of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rng = Random(self.seed)
        self.tree = SimTree(rng.randbytes(16), self.time, self.journal, rng)
        self.checked = 0
        self.late_polls = 0
        self.identity = replace(self.identity, trees=(TreeIdentity("files", "", self.tree.id),))

    def outside(self) -> Outside:
        return replace(super().outside(), watcher=self.tree)

    def play(self, seconds: float) -> None:
        self.time.after(1.0, self.programs)
        self.time.after(20.0, self.restart_watcher)
        self.time.after(30.0, self.hinder_watcher)
        super().play(seconds)

    def programs(self) -> None:
        """Whoever uses the tree; guests know nothing of it."""
        if self.quiet:
            return
        if self.journal.tail != NOWHERE:
            for _ in range(self.tree.rng.choice((1, 1, 2, 9))):
                self.tree.change()
        self.time.after(self.tree.rng.expovariate(1 / 0.9), self.programs)

    def restart_watcher(self) -> None:
        if not self.quiet:
            self.tree.restart()
            self.time.after(self.tree.rng.expovariate(1 / 25), self.restart_watcher)

    def hinder_watcher(self) -> None:
        """For a while it is slow, or answers nothing."""
        if not self.quiet:
            self.tree.hangs, self.tree.slow = self.tree.rng.choice(
                ((True, False), (False, True), (False, False), (False, False))
            )
            self.time.after(self.tree.rng.expovariate(1 / 20), self.hinder_watcher)

    def busy_seconds(self) -> float:
        took_seconds, self.tree.took_seconds = self.tree.took_seconds, 0.0
        return took_seconds

    def poll(self, run_number: int) -> None:
        super().poll(run_number)
        stream = None if self.engine is None or run_number != self.run_number else self.engine.stream
        is_late = (
            stream is not None
            and stream.epoch > 0
            and stream.tail != stream.position
            and self.time.now_ns >= stream.cut_at_ns
            and not (stream.building or stream.sealing or stream.copying or stream.paused or stream.fenced)
            and not steps._is_window_full(stream)
        )
        self.late_polls = self.late_polls + 1 if is_late else 0
        must(self.late_polls <= LATE_POLLS_MAX, "volumes' cuts waited for the watcher of trees")

    def settle(self) -> None:
        self.tree.failing = 0.0
        self.tree.hangs = self.tree.slow = False
        super().settle()

    def is_its_instant(self, shown: int, target: int) -> bool:
        return shown >= target

    def check(self) -> None:
        super().check()
        recovery = Recovery(self.store.inner, PASSPHRASE if self.identity.key_block else None)
        whole = [place for place in recovery.cuts if recovery.is_whole(self.tree.id, place)]
        some = self.tree.rng.sample(whole, min(len(whole), 12))
        for place in {*some, *whole[-1:]}:
            names = recovery.tree(self.tree.id, place)
            content = {path: data for path, (_, data) in names.items()}
            number = self.journal.number_of(self._position_of(place))
            must(content in self.tree.states_at(number), f"the tree at {place} is none that it was then")
            self.checked += 1
        if self.intruder is None:
            must(bool(whole) and whole[-1] == recovery.cuts[-1], "the tree is not whole after the storm")
            newest = recovery.tree(self.tree.id, whole[-1])
            now = {path: data for path, (_, data) in self.tree.now.items()}
            must({path: data for path, (_, data) in newest.items()} == now, "the newest tree is an old one")


@contextlib.contextmanager
def tree_world_of(seed: int, take_over_odds: float = 0.3) -> Iterator[TreeWorld]:
    world = TreeWorld(seed, take_over_odds)
    try:
        yield world
    finally:
        world.close()
