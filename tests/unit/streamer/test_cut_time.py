"""A cut's time promises: whatever was acknowledged before it is in the cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from cdp_agent.streamer import build, coalesce, steps
from cdp_agent.streamer.build import CutBuilder, EpochFacts
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.step_types import (
    Asked,
    AskedFor,
    EpochBegan,
    Event,
    Pace,
    ReadCut,
    SealSegment,
    StreamState,
    TailMoved,
    Tick,
)
from cdp_container.clock import SystemClock
from cdp_container.domain.identity import SourceIdentity
from cdp_container.format.codec import Compressor
from cdp_container.format.place import NOWHERE
from cdp_container.format.preamble import NO_DIGEST, parse_preamble
from cdp_container.format.seal import WriterKeys
from cdp_container.journal.position import Position
from cdp_container.journal.record import Kind, Record

DOMAIN, SPACE = bytes(range(16)), bytes(range(16, 32))
START, MIDDLE, TAIL = Position(7, 0), Position(7, 4096), Position(7, 8192)
BEGAN = EpochBegan(1, NO_DIGEST, START, 0, lacking=(), announce=False)


def cut_of(*events: Event) -> ReadCut:
    state = StreamState(Pace(1))
    for event in events:
        state, effects = steps.step(state, event, 10)
        for effect in effects:
            if isinstance(effect, ReadCut):
                return effect
    raise AssertionError("no cut was taken")


def test_it_is_when_the_tail_was_looked_at_and_not_when_the_cut_was_read() -> None:
    assert cut_of(TailMoved(MIDDLE, 500), TailMoved(TAIL, 900), BEGAN, Tick()).taken_ns == 900


def test_a_tail_that_stands_still_makes_it_no_older() -> None:
    assert cut_of(TailMoved(TAIL, 500), TailMoved(TAIL, 900), BEGAN).taken_ns == 900


def test_a_marker_has_the_time_at_which_it_was_asked_for() -> None:
    asked = AskedFor(Asked(1, MIDDLE, "named", seen_ns=600))
    effect = cut_of(TailMoved(MIDDLE, 600), asked, TailMoved(TAIL, 900), BEGAN)
    assert (effect.to_position, effect.taken_ns) == (MIDDLE, 600)


class ThreeZeroes:
    """A journal of three records, written at 100, 200 and 300 ns."""

    start = START

    def records(self, from_position: Position, to_position: Position) -> Iterator[Record]:
        for number in range(3):
            start, end = Position(7, number * 64), Position(7, number * 64 + 64)
            yield Record(Kind.ZERO, 0, number * 4096, 4096, 100 * (number + 1), start, end, 0, 0, 1, 0)


def time_of_cut(limit: int, monkeypatch: pytest.MonkeyPatch) -> int:
    def limited(records: Iterable[Record], bytes_max: int) -> coalesce.Batch:
        return coalesce.take_batch(records, records_max=limit)

    monkeypatch.setattr(build, "take_batch", limited)
    builder = CutBuilder(
        EpochFacts(1, NOWHERE, NOWHERE, "a", "test"),
        WriterKeys(DOMAIN),
        [SourceIdentity("db", "/db", SPACE, 1 << 20)],
        ThreeZeroes(),  # type: ignore[arg-type]
        Copying({}, None),
        SystemClock(),
        bytes,
        Compressor(level=1),
    )
    builder.read(ReadCut(1, START, Position(7, 192), 900, (), None, announce=False))
    _, built = builder.seal(SealSegment(1, 1, NO_DIGEST, Position(7, 192), lacking=()))
    return parse_preamble(built.data, built.key).cut_time_ns


def test_a_cut_that_holds_everything_has_the_time_of_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_of_cut(3, monkeypatch) == 900


def test_a_cut_of_a_backlog_is_as_old_as_its_newest_write(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_of_cut(2, monkeypatch) == 200
