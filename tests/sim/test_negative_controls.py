"""Broken streamers, each broken in one way: the simulator must catch every one of them within the seeds.

A harness that finds nothing in these would find nothing in the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

import pytest

from cdp_agent.streamer import build, coalesce, engine, resume, step_events
from cdp_agent.streamer import step_types as st
from cdp_agent.streamer.copy import Doubt
from cdp_agent.streamer.engine import Engine
from cdp_agent.streamer.noted import Noted
from cdp_agent.streamer.payloads import Chunk, chunks_of
from cdp_agent.streamer.put import PutResult
from cdp_agent.streamer.sending import Sending
from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_types import End
from cdp_container.errors import DamagedObject
from cdp_container.format.assemble import SealedObject
from cdp_container.format.domain import Owner
from cdp_container.format.index import Record as IndexRecord
from cdp_container.format.layout import ExtentKind
from cdp_container.format.place import Place
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.record import Record
from cdp_container.journal.shared import SplitterPage
from tests.reader import ReaderError
from tests.sim.journal import SimJournal, WriteDisk
from tests.sim.local import SimLocal
from tests.sim.store import TwoContents
from tests.sim.test_streamer import STORY_SECONDS
from tests.sim.world import SimFailure, World, world_of

pytestmark = [pytest.mark.sim, pytest.mark.timeout(600)]

SEEDS = 600
"""Some are caught by one story in a hundred; only one that is not caught costs them all."""
CAUGHT = (SimFailure, TwoContents, ReaderError, DamagedObject, AssertionError)

Break = Callable[[pytest.MonkeyPatch, World], None]


def resume_at_a_local_note(patch: pytest.MonkeyPatch, world: World) -> None:
    """Goes on where the last run said that it was, which may be past what ever arrived."""
    notes: list[Position] = []
    taken = Sending._cut_read

    def noting(self: Sending, effect: st.ReadCut, read: st.CutRead, of_vms: Sequence[IndexRecord]) -> None:
        notes.append(read.position)
        taken(self, effect, read, of_vms)

    real = resume.plan_epoch

    def resume_there(*arguments: object) -> resume.Plan:
        plan = real(*arguments)  # type: ignore[arg-type]
        known = notes and world.journal.contains(notes[-1], world.journal.tail)
        return replace(plan, position=notes[-1]) if known else plan

    patch.setattr(Sending, "_cut_read", noting)
    patch.setattr(engine, "plan_epoch", resume_there)


def build_a_sealed_seq_again(patch: pytest.MonkeyPatch, world: World) -> None:
    """Seals a segment anew for every put, instead of keeping its bytes."""
    real = Sending._put

    def put(self: Sending, built: SealedObject, ended: Callable[[PutResult], None]) -> None:
        data = built.data[:32] + world.rng.randbytes(16) + built.data[48:]
        real(self, replace(built, data=data), ended)

    patch.setattr(Sending, "_put", put)


def coalesce_across_a_cut(patch: pytest.MonkeyPatch, world: World) -> None:
    """Takes what was written after the cut for what is overwritten in it."""
    real = build.CutBuilder._read_journal

    def read(self: build.CutBuilder, effect: st.ReadCut) -> tuple[Position, bool, int, Iterator[Chunk]]:
        position, reached, taken_ns, _ = real(self, effect)
        first = world.journal.number_of(effect.from_position)
        beyond = world.journal.number_of(position) + 5
        records = [change.record for change in world.journal.changes[first:beyond]]
        return position, reached, taken_ns, chunks_of(coalesce.coalesce(records), world.journal)

    patch.setattr(build.CutBuilder, "_read_journal", read)


def forget_discards(patch: pytest.MonkeyPatch, world: World) -> None:
    """Does not send what reads as zeros."""
    real = coalesce.coalesce

    def without(records: list[Record]) -> list[coalesce.CutExtent]:
        return [extent for extent in real(records) if extent.kind is not ExtentKind.DISCARD]

    patch.setattr(build, "coalesce", without)


def trim_before_proof(patch: pytest.MonkeyPatch, world: World) -> None:
    """Lets the journal go once everything is sent, without asking whose epoch it is."""
    real = Engine._step_stream

    def step(self: Engine, event: st.Event) -> None:
        real(self, event)
        sent = [
            facts.position
            for facts in self.stream.cuts
            if facts.place.seq and facts.place <= self.stream.sent
        ]
        if sent:
            local = self._outside.local
            local.publish(replace(local.streamer(), proven=sent[-1]))

    patch.setattr(Engine, "_step_stream", step)


def do_not_fence(patch: pytest.MonkeyPatch, world: World) -> None:
    """Takes the domain back from whoever took it, and goes on in its epoch."""

    def ignore(state: ot.RunState, found: Owner) -> owner.Step:
        assert state.seen is not None
        mine = replace(state.seen, version=found.version, nonce=found.nonce)
        proving = state.proving or state.prove
        kept = replace(state, seen=mine, settle=False, attempts=(), prove=None)
        return kept, (ot.Proven(proving),) if proving is not None else ()

    def keep_tag(
        state: ot.RunState, found: Owner, tag: str, proving: Place | None, moment: ot.Moment
    ) -> owner.Step:
        foreign = found.site != state.claimant.site
        return real(replace(state, tag=tag) if foreign else state, found, tag, proving, moment)

    real = owner._take_owner
    patch.setattr(owner, "_fence", ignore)
    patch.setattr(owner, "_take_owner", keep_tag)


def lose_the_newest_write(patch: pytest.MonkeyPatch, world: World) -> None:
    """The older of two overlapping writes wins."""
    real = coalesce.coalesce
    patch.setattr(build, "coalesce", lambda records: real(list(reversed(records))))


def use_an_object_id_again(patch: pytest.MonkeyPatch, world: World) -> None:
    """Gives two segments of an epoch the same object id, and so the same keys and nonces."""
    real = build.CutBuilder.seal

    def seal(self: build.CutBuilder, effect: st.SealSegment) -> tuple[st.SegmentSealed, SealedObject]:
        self._entropy = bytes
        return real(self, effect)

    patch.setattr(build.CutBuilder, "seal", seal)


def protect_what_is_not_acknowledged(patch: pytest.MonkeyPatch, world: World) -> None:
    """Takes a put without an answer for one that was done."""
    real = Sending._put_ended

    def ended(self: Sending, seq: int, result: PutResult) -> None:
        real(self, seq, PutResult(st.PutOutcome.STORED))

    patch.setattr(Sending, "_put_ended", ended)


def forget_pending_nonces(patch: pytest.MonkeyPatch, world: World) -> None:
    """Notes a nonce only when its swap was answered: after a crash our own claim looks foreign."""

    def save(self: SimLocal, notes: Notes) -> None:
        self.notes = replace(notes, nonces=notes.nonces[:1])

    patch.setattr(SimLocal, "save_notes", save)


def copy_while_applied_up_to_lags(patch: pytest.MonkeyPatch, world: World) -> None:
    """Reads a volume that lacks what cuts hold already, and puts the older content over it."""
    real = SimLocal.splitter

    def all_applied(self: SimLocal) -> SplitterPage | None:
        page = real(self)
        return replace(page, applied=page.tail) if page is not None else None

    patch.setattr(SimLocal, "splitter", all_applied)


def copy_during_a_redo(patch: pytest.MonkeyPatch, world: World) -> None:
    """Keeps what was read of a volume while old records were put over it, whatever the splitter says."""
    patch.setattr(engine, "may_copy", lambda page, began: page.running and not page.overflowed)
    patch.setattr(engine, "check_gap", lambda page, began, lacking: None)
    begun = SimJournal.redo

    def redo(self: SimJournal, rng: Random, write: WriteDisk) -> None:
        begun(self, rng, write)
        self.applied_count = 0 if world.polls % 2 else self.applied_count

    patch.setattr(SimJournal, "redo", redo)


def take_a_copy_for_whole_at_once(patch: pytest.MonkeyPatch, world: World) -> None:
    """Forgets that the last read saw writes that are in no cut yet."""
    real = step_events._copy_ended

    def ended(state: st.StreamState, event: st.CopyEnded) -> st.StreamState:
        return real(state, replace(event, tail=state.position))

    patch.setattr(step_events, "_copy_ended", ended)


def forget_a_gap(patch: pytest.MonkeyPatch, world: World) -> None:
    """Goes on behind a gap in the journal as if there were none."""
    patch.setattr(engine, "check_gap", lambda page, began, lacking: None)
    real = resume.plan_epoch

    def without(end: End, page: SplitterPage, seen: int, notes: Notes, *others: object) -> resume.Plan:
        return real(end, replace(page, episode=notes.episode), seen, notes, *others)  # type: ignore[arg-type]

    patch.setattr(engine, "plan_epoch", without)


def take_for_whole_what_was_not_finished(patch: pytest.MonkeyPatch, world: World) -> None:
    """A run that ends within a copy leaves nothing that says so."""
    patch.setattr(Noted, "note_lacking", lambda self, lacking: True)
    real = resume.plan_epoch

    def without(end: End, page: SplitterPage, seen_ns: int, notes: Notes, *others: object) -> resume.Plan:
        plan = real(end, page, seen_ns, notes, *others)  # type: ignore[arg-type]
        again = end.preamble is not None and end.preamble.not_whole and not plan.why
        return replace(plan, lacking=()) if again else plan

    patch.setattr(engine, "plan_epoch", without)


def often_gaps(world: World) -> None:
    """Power losses and overflows all the time, with maps of what they left in doubt."""
    world.has_gaps, world.has_intent_maps, world.gap_share = True, True, 5


def leave_a_dirty_block_out(patch: pytest.MonkeyPatch, world: World) -> None:
    """Does not compare all that was written while the journal held nothing."""
    often_gaps(world)
    real = SimLocal.doubt

    def without(self: SimLocal, source: int, episode: int | None) -> Doubt:
        doubt = real(self, source, episode)
        ranges = list(doubt.ranges or ())
        return replace(doubt, ranges=ranges[1:] if episode is not None else ranges)

    patch.setattr(SimLocal, "doubt", without)


def copy_before_what_came_before(patch: pytest.MonkeyPatch, world: World) -> None:
    """After a power loss copies come before records of an earlier time, which are put over them."""
    often_gaps(world)
    real = resume.plan_epoch

    def without(*args: object) -> resume.Plan:
        return replace(real(*args), copy_from=NOWHERE)  # type: ignore[arg-type]

    patch.setattr(engine, "plan_epoch", without)


def forget_what_cuts_wrote_that_the_journal_lost(patch: pytest.MonkeyPatch, world: World) -> None:
    """Compares what is marked, but not what cuts beyond the journal's end wrote, on a reverted host."""
    often_gaps(world)
    real = resume.plan_epoch

    def without(*args: object) -> resume.Plan:
        return replace(real(*args), beyond=NOWHERE)  # type: ignore[arg-type]

    patch.setattr(engine, "plan_epoch", without)


BROKEN: tuple[Break, ...] = (
    leave_a_dirty_block_out,
    copy_before_what_came_before,
    forget_what_cuts_wrote_that_the_journal_lost,
    copy_while_applied_up_to_lags,
    copy_during_a_redo,
    take_a_copy_for_whole_at_once,
    forget_a_gap,
    take_for_whole_what_was_not_finished,
    resume_at_a_local_note,
    build_a_sealed_seq_again,
    coalesce_across_a_cut,
    forget_discards,
    trim_before_proof,
    do_not_fence,
    lose_the_newest_write,
    use_an_object_id_again,
    protect_what_is_not_acknowledged,
    forget_pending_nonces,
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_streamer_is_caught(broken: Break) -> None:
    for seed in range(SEEDS):
        # Half of them only show where another site takes the domain, so that happens in every story.
        with pytest.MonkeyPatch.context() as patch, world_of(seed, take_over_odds=seed % 2) as world:
            broken(patch, world)
            try:
                world.play(STORY_SECONDS)
            except CAUGHT as error:
                print(f"seed {seed}: {type(error).__name__}: {error}")
                return
    pytest.fail(f"{SEEDS} seeds went by, and nothing was noticed: {broken.__doc__}")


def test_nowhere_is_not_trimmed() -> None:
    """The model's own control: a world in which nothing is proven keeps its whole journal."""
    with world_of(0) as world:
        world.start_splitter()
        world.journal.trim(NOWHERE)
        assert world.journal.trimmed == 0
