"""The streamer's step machine: cuts, order, window, proof, and every bad outcome of a put."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from cdp_agent.streamer import step_events, steps
from cdp_agent.streamer.step_types import (
    Answer,
    Asked,
    AskedFor,
    AskProof,
    CatalogEnded,
    CutProven,
    CutRead,
    Effect,
    EpochBegan,
    Event,
    Fence,
    ForgetSegment,
    LeaseBack,
    LeasePassed,
    Pace,
    Protected,
    PutEnded,
    PutOutcome,
    PutSegment,
    ReadCut,
    SealSegment,
    SegmentSealed,
    StreamState,
    TailMoved,
    Tick,
    WriteCatalog,
)
from cdp_container.format.place import NOWHERE, Place
from cdp_container.journal.position import Position

SECOND = 1_000_000_000
STORED, UNKNOWN = PutOutcome.STORED, PutOutcome.UNKNOWN

EffectT = TypeVar("EffectT")


def at(offset: int) -> Position:
    return Position(7, offset)


@dataclass
class Play:
    """Drives the machine; `effects` are those of the last step."""

    now_ns: int = 100 * SECOND
    state: StreamState = field(default_factory=lambda: StreamState(Pace(SECOND)))
    effects: tuple[Effect, ...] = ()

    def on(self, event: Event, after_seconds: float = 0.0) -> tuple[Effect, ...]:
        self.now_ns += int(after_seconds * SECOND)
        self.state, self.effects = steps.step(self.state, event, self.now_ns)
        return self.effects

    def all(self, kind: type[EffectT]) -> list[EffectT]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def one(self, kind: type[EffectT]) -> EffectT:
        found = self.all(kind)
        assert len(found) == 1, self.effects
        return found[0]

    def until_due(self) -> None:
        due_ns = steps.due_ns(self.state)
        assert due_ns is not None
        self.now_ns = max(self.now_ns, due_ns)
        self.on(Tick())

    # --- stages --------------------------------------------------------------------------------

    def began(self, lacking: tuple[int, ...] = (), announce: bool = False) -> Play:
        self.on(TailMoved(at(0), 0, at(0)))
        self.on(EpochBegan(5, b"b" * 32, at(0), 77, lacking, announce))
        return self

    def sealed(self, offset: int = 100, segments: int = 1) -> Play:
        """A cut up to `offset` is read and sealed; its puts are in flight."""
        self.on(TailMoved(at(offset)), after_seconds=1)
        self.one(ReadCut)
        self.on(CutRead(at(offset), empty=False, reached=True))
        for number in range(segments):
            seal = self.one(SealSegment)
            last = number == segments - 1
            self.on(SegmentSealed(seal.seq, seal.seq.to_bytes(32, "big"), 1000, complete=last))
            assert PutSegment(seal.seq) in self.effects
        return self

    def stored(self, *seqs: int) -> Play:
        for seq in seqs:
            self.on(PutEnded(seq, STORED))
            assert ForgetSegment(seq) in self.effects
        return self

    def protected(self, offset: int = 100, segments: int = 1) -> Play:
        first = self.state.seq + 1
        self.sealed(offset, segments).stored(*range(first, first + segments))
        place = self.one(AskProof).place
        self.on(CutProven(place))
        return self


# --- when a cut is taken -------------------------------------------------------------------------


def test_nothing_is_read_before_the_epoch_is_ours() -> None:
    play = Play()
    assert play.on(TailMoved(at(100))) == ()
    assert play.on(Tick(), after_seconds=100) == ()


def test_a_cut_is_taken_at_the_cadence_and_only_if_there_is_something_new() -> None:
    play = Play().began().protected()
    assert play.on(Tick(), after_seconds=100) == ()
    play.on(TailMoved(at(200)))
    cut = play.one(ReadCut)
    assert (cut.cut, cut.from_position, cut.to_position) == (2, at(100), at(200))


def test_cuts_do_not_come_faster_than_the_cadence() -> None:
    play = Play().began().protected()
    play.on(TailMoved(at(200)), after_seconds=0.5)
    assert not play.all(ReadCut)
    play.until_due()
    assert play.one(ReadCut).to_position == at(200)


def test_a_domain_without_spaces_is_announced_by_a_cut_of_its_own() -> None:
    play = Play().began(announce=True)
    assert play.one(ReadCut).announce


def test_the_first_cut_of_an_epoch_says_again_which_spaces_there_are() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    assert play.one(ReadCut).announce
    play = Play().began().protected()
    play.on(TailMoved(at(200)), after_seconds=1)
    assert not play.one(ReadCut).announce


def test_a_generation_without_a_write_is_worth_a_cut() -> None:
    """Else the journal could let go of nothing: an idle agent that is started often would fill it."""
    play = Play().began()
    play.on(TailMoved(Position(9, 64)), after_seconds=1)
    play.one(ReadCut)
    play.on(CutRead(Position(9, 64), empty=True, reached=True))
    cut = play.one(ReadCut)
    assert (cut.from_position, cut.to_position, cut.announce) == (Position(9, 64), Position(9, 64), True)
    play.on(CutRead(Position(9, 64), empty=False, reached=True))
    play.on(SegmentSealed(1, b"x" * 32, 1000, complete=True))
    play.stored(1)
    play.on(CutProven(Place(5, 1, 1)))
    assert play.one(Protected).position == Position(9, 64)
    assert play.all(ReadCut) == []


def test_a_cut_that_holds_nothing_takes_no_number() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    assert play.on(CutRead(at(100), empty=True, reached=True)) == ()
    play.on(TailMoved(at(200)), after_seconds=1)
    assert (play.one(ReadCut).cut, play.one(ReadCut).from_position) == (1, at(100))


def test_a_cut_that_met_a_limit_is_followed_at_once() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(60), empty=False, reached=False))
    play.on(SegmentSealed(1, b"x" * 32, 1000, complete=True))
    cut = play.one(ReadCut)
    assert (cut.cut, cut.from_position, cut.to_position) == (2, at(60), at(100))


# --- who asked ---------------------------------------------------------------------------------


def test_a_marker_ends_its_cut_where_it_was_asked_for() -> None:
    play = Play().began().protected()
    play.on(TailMoved(at(150)))
    play.on(AskedFor(Asked(1, at(150), "release")))
    cut = play.one(ReadCut)
    assert (cut.to_position, cut.asked[0].name) == (at(150), "release")
    play.on(TailMoved(at(400)))
    play.on(CutRead(at(150), empty=False, reached=True))
    play.on(SegmentSealed(2, b"x" * 32, 1000, complete=True))
    play.stored(2)
    play.on(CutProven(Place(5, 2, 2)))
    assert play.one(Answer) == Answer(1, Place(5, 2, 2))


def test_two_markers_are_two_cuts() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    for ticket in (1, 2):
        play.on(AskedFor(Asked(ticket, at(100), f"m{ticket}")))
    play.on(CutRead(at(100), empty=False, reached=True))
    play.on(SegmentSealed(1, b"x" * 32, 1000, complete=True))
    assert [asked.ticket for asked in play.one(ReadCut).asked] == [1]
    play.on(CutRead(at(100), empty=False, reached=True))
    play.on(SegmentSealed(2, b"x" * 32, 1000, complete=True))
    assert [asked.ticket for asked in play.one(ReadCut).asked] == [2]


def test_a_marker_waits_for_the_cut_that_reaches_it() -> None:
    play = Play().began()
    play.on(AskedFor(Asked(1, at(0), None)))
    play.on(CutRead(at(0), empty=True, reached=True))
    play.on(TailMoved(at(100)))
    play.on(AskedFor(Asked(2, at(100), "late")))
    assert play.one(ReadCut).asked[0].name == "late"
    play.on(CutRead(at(60), empty=False, reached=False))
    play.on(SegmentSealed(1, b"x" * 32, 1000, complete=True))
    assert [asked.ticket for asked in play.one(ReadCut).asked] == [2]


def test_a_flush_with_nothing_new_is_answered_with_what_is_protected() -> None:
    play = Play().began().protected()
    play.on(AskedFor(Asked(1, at(100))))
    play.on(CutRead(at(100), empty=True, reached=True))
    assert play.one(Answer) == Answer(1, Place(5, 1, 1))


def test_a_flush_with_nothing_new_waits_for_what_is_in_flight() -> None:
    play = Play().began().sealed()
    play.on(AskedFor(Asked(1, at(100))))
    play.on(CutRead(at(100), empty=True, reached=True))
    assert not play.all(Answer)
    play.stored(1)
    play.on(CutProven(Place(5, 1, 1)))
    assert play.one(Answer) == Answer(1, Place(5, 1, 1))


# --- order and proof -----------------------------------------------------------------------------


def test_segments_are_numbered_and_chained_from_the_base() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(100), empty=False, reached=True))
    assert (play.one(SealSegment).seq, play.one(SealSegment).previous_digest) == (1, b"b" * 32)
    play.on(SegmentSealed(1, b"1" * 32, 1000, complete=False))
    assert (play.one(SealSegment).seq, play.one(SealSegment).previous_digest) == (2, b"1" * 32)


def test_a_cut_is_sent_when_it_and_all_before_it_are_stored() -> None:
    play = Play().began().sealed(100, segments=3)
    assert not play.on(PutEnded(3, STORED))[1:]
    assert not play.on(PutEnded(2, STORED))[1:]
    assert AskProof(Place(5, 1, 3)) in play.on(PutEnded(1, STORED))


def test_an_incomplete_cut_is_never_proven() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(100), empty=False, reached=True))
    play.on(SegmentSealed(1, b"1" * 32, 1000, complete=False))
    play.stored(1)
    assert not play.all(AskProof)


def test_the_journal_goes_only_with_a_proof() -> None:
    play = Play().began().sealed().stored(1)
    assert not play.all(Protected)
    assert play.state.proven_position == at(0)
    play.on(CutProven(Place(5, 1, 1)))
    assert play.one(Protected) == Protected(Place(5, 1, 1), at(100), lacking=())


def test_one_proof_covers_every_cut_before_it() -> None:
    play = Play().began().sealed(100)
    play.sealed(200).stored(1, 2)
    play.on(CutProven(Place(5, 2, 2)))
    assert play.one(Protected).position == at(200)
    assert play.on(CutProven(Place(5, 2, 2))) == ()


# --- puts that go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [UNKNOWN, PutOutcome.THROTTLED])
def test_a_put_without_an_answer_is_repeated_and_never_sealed_again(outcome: PutOutcome) -> None:
    play = Play().began().sealed()
    pauses = []
    for _ in range(30):
        play.on(PutEnded(1, outcome, "no answer"))
        assert not play.all(ForgetSegment)
        began_ns = play.now_ns
        play.until_due()
        pauses.append(play.now_ns - began_ns)
        assert play.effects == (PutSegment(1),)
    assert pauses == sorted(pauses)
    assert pauses[-1] == step_events.RETRY_MAX_NS


def test_a_throttling_store_is_left_alone_with_everything() -> None:
    play = Play().began().sealed(100, segments=2)
    play.on(PutEnded(1, PutOutcome.THROTTLED))
    play.on(PutEnded(2, UNKNOWN))
    assert not play.all(PutSegment)


def test_foreign_bytes_under_our_key_fence() -> None:
    play = Play().began().sealed()
    play.on(PutEnded(1, PutOutcome.FOREIGN, "log/5/1"))
    assert "not ours" in play.one(Fence).why
    assert play.on(TailMoved(at(500)), after_seconds=10) == ()
    assert steps.due_ns(play.state) is None


def test_a_lease_that_passed_stops_puts_and_cuts() -> None:
    play = Play().began().sealed()
    play.on(LeasePassed())
    play.on(PutEnded(1, UNKNOWN))
    assert play.on(TailMoved(at(300)), after_seconds=60) == ()
    play.on(LeaseBack())
    assert PutSegment(1) in play.effects
    assert play.all(ReadCut)


# --- the window ----------------------------------------------------------------------------------


def test_puts_in_flight_are_bounded() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(100), empty=False, reached=True))
    flying = 0
    for seq in range(1, 2 * steps.PUTS_MAX):
        play.on(SegmentSealed(seq, bytes(32), 1000, complete=False))
        flying += len(play.all(PutSegment))
    assert flying == steps.PUTS_MAX
    play.on(PutEnded(1, STORED))
    assert play.one(PutSegment).seq == steps.PUTS_MAX + 1


def test_sealed_bytes_in_memory_are_bounded() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(100), empty=False, reached=True))
    play.on(SegmentSealed(1, bytes(32), steps.WINDOW_BYTES_MAX, complete=False))
    assert not play.all(SealSegment)
    play.on(PutEnded(1, STORED))
    assert play.one(SealSegment).seq == 2


def test_no_cut_is_read_while_the_window_is_full() -> None:
    play = Play().began()
    play.on(TailMoved(at(100)))
    play.on(CutRead(at(100), empty=False, reached=True))
    play.on(SegmentSealed(1, bytes(32), steps.WINDOW_BYTES_MAX, complete=True))
    play.on(TailMoved(at(900)), after_seconds=10)
    assert not play.all(ReadCut)
    play.on(PutEnded(1, STORED))
    assert play.one(ReadCut).to_position == at(900)


def test_no_cut_is_read_while_too_many_segments_wait_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FLYING_MAX", 3)
    play = Play().began()
    for number in range(1, 4):
        play.on(TailMoved(at(100 * number)), after_seconds=10)
        play.on(CutRead(at(100 * number), empty=False, reached=True))
        play.on(SegmentSealed(number, bytes(32), 10, complete=True))
    play.all(ReadCut)
    play.on(TailMoved(at(900)), after_seconds=10)
    assert not play.all(ReadCut)
    play.on(PutEnded(1, STORED))
    assert play.one(ReadCut).to_position == at(900), "what waited makes one wider cut"


# --- catalogs ------------------------------------------------------------------------------------


def test_catalogs_bundle_what_is_protected_and_are_merged() -> None:
    play = Play().began()
    written = []
    for number in range(1, 257):
        play.protected(number * 100)
        for _ in range(3):
            for catalog in play.all(WriteCatalog):
                written.append(catalog)
                play.on(CatalogEnded(catalog.level, catalog.number, STORED))
    assert written[0] == WriteCatalog(0, 1, 1, 8)
    assert written[8] == WriteCatalog(1, 1, 1, 64)
    assert written[-3:] == [
        WriteCatalog(0, 32, 249, 256),
        WriteCatalog(1, 4, 193, 256),
        WriteCatalog(2, 1, 1, 256),
    ]
    assert len(written) == 32 + 4 + 1


def test_a_catalog_that_cannot_be_stored_is_left_out() -> None:
    play = Play().began()
    for number in range(1, 9):
        play.protected(number * 100)
    for _ in range(step_events.CATALOG_ATTEMPTS_MAX):
        assert play.one(WriteCatalog).number == 1
        play.on(CatalogEnded(0, 1, UNKNOWN))
        if steps.due_ns(play.state) is not None:
            play.until_due()
    assert play.state.catalogs == (1, 0, 0)


def test_nothing_is_protected_at_the_start() -> None:
    assert Play().began().state.protected == NOWHERE
