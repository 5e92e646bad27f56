"""Broken ways to cut volumes and trees together: the simulator must catch each within the seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cdp_agent.streamer import build, step_events, steps, trees
from cdp_agent.streamer import step_types as st
from cdp_agent.streamer.trees import Batch, Taken, Trees
from cdp_container.errors import WatcherFailed
from cdp_container.journal.position import Position
from tests.sim.controls import assert_caught
from tests.sim.tree_world import TreeWorld, tree_world_of

pytestmark = [pytest.mark.sim, pytest.mark.timeout(600)]

SEEDS = 200

Break = Callable[[pytest.MonkeyPatch, TreeWorld], None]


def take_for_a_cut_at_once(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Lets a batch belong to the next cut before it is in it: an answer that gets lost is believed to be."""
    real = build.CutBuilder._take

    def take(self: build.CutBuilder, effect: st.ReadCut) -> Taken | None:
        patch.setattr(trees, "NO_CUT", effect.cut)
        return real(self, effect)

    patch.setattr(build.CutBuilder, "_take", take)

    def go_on(self: Trees, error: WatcherFailed, began_ns: int) -> None:
        """As if nothing was asked."""

    patch.setattr(Trees, "_fail", go_on)


def cut_at_the_tail_that_was_seen(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Ends the cut where it was asked for, and not where writes were held."""
    real = Trees.take

    def take(self: Trees, position: Position, taken_ns: int, since_ns: int = 0) -> Taken | None:
        taken = real(self, position, taken_ns, since_ns)
        waits = taken is not None and taken.position != position
        return taken._replace(position=position) if taken is not None and waits else taken

    patch.setattr(Trees, "take", take)


def forget_what_waits(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Throws a batch away where limits end the cut earlier."""
    real = build.CutBuilder._with_batch

    def with_batch(self: build.CutBuilder, effect: st.ReadCut, read: st.CutRead, taken: Taken) -> st.CutRead:
        if not read.reached:
            assert self.trees is not None
            self.trees.put_into(effect.cut)
        return real(self, effect, read, taken)

    patch.setattr(build.CutBuilder, "_with_batch", with_batch)


def call_all_trees_whole(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Says that trees are whole in cuts to which the watcher gave nothing."""
    real = step_events._cut_read

    def cut_read(state: st.StreamState, event: st.CutRead, now_ns: int) -> step_events.Step:
        return real(state, replace(event, lacking_trees=()), now_ns)

    patch.setattr(step_events, "_cut_read", cut_read)


def leave_out_the_last_file(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Does not send the content that comes last in a batch."""
    real = build.CutBuilder._contents

    def contents(self: build.CutBuilder, chunks: object, batch: Batch | None) -> object:
        found = list(real(self, chunks, batch))  # type: ignore[arg-type]
        return iter(found[:-1] if batch is not None and batch.number else found)

    patch.setattr(build.CutBuilder, "_contents", contents)


def read_at_leisure_for_a_cut(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Has a cut of the volumes wait for all that is dirty to be read, as long as that takes."""
    patch.setattr(steps, "_sweep", lambda state, now_ns: (state, ()))
    real = steps._may_take

    def may_take(state: st.StreamState) -> bool:
        return real(replace(state, sweep_due=False))

    patch.setattr(steps, "_may_take", may_take)

    def take(self: Trees, position: Position, taken_ns: int, since_ns: int = 0) -> Taken | None:
        if self._waiting is None and self._swept is None:
            self.sweep()
        return real_take(self, position, taken_ns, since_ns)

    real_take = Trees.take
    patch.setattr(Trees, "take", take)


def wait_with_cuts_for_a_sweep(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Takes no cut while the watcher reads."""
    real = steps._may_cut
    patch.setattr(steps, "_may_cut", lambda state: real(state) and not state.sweeping)


def call_trees_whole_with_a_sweep(patch: pytest.MonkeyPatch, world: TreeWorld) -> None:
    """Takes what was read at leisure for the trees at the instant of the cut that it goes into."""
    real = Trees.take

    def take(self: Trees, position: Position, taken_ns: int, since_ns: int = 0) -> Taken | None:
        taken = real(self, position, taken_ns, since_ns)
        if taken is not None and taken.swept:
            self._waiting = taken._replace(swept=False)
            self._swept = None
        return self._waiting if self._waiting is not None else taken

    patch.setattr(Trees, "take", take)


BROKEN = [
    read_at_leisure_for_a_cut,
    wait_with_cuts_for_a_sweep,
    call_trees_whole_with_a_sweep,
    take_for_a_cut_at_once,
    cut_at_the_tail_that_was_seen,
    forget_what_waits,
    call_all_trees_whole,
    leave_out_the_last_file,
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(broken, tree_world_of, SEEDS, monkeypatch)
