"""Of which sources a cut lacks something: those that are copied, or are filled from outside. PURE.

What is done about it stands in `steps` and `step_events`; what is noted on this machine, in `filling`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdp_container.journal.position import NOWHERE, Position


@dataclass(frozen=True, slots=True)
class Lacking:
    """A source of which the container may lack something.

    Attributes:
        source: its index.
        whole_at: it is whole from the first cut at or beyond this position; None while copying goes on.
    """

    source: int
    whole_at: Position | None = None


@dataclass(frozen=True, slots=True)
class FillingLooked:
    """Which sources are filled from outside.

    `going_on`: nobody knows until when; `ended`: what came lies below the tail that was told last, or before.
    """

    going_on: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()


def is_whole(one: Lacking, position: Position) -> bool:
    """Whether a cut at this position has all that is wanted of a source."""
    mark = one.whole_at
    return mark is not None and mark.generation == position.generation and mark.offset <= position.offset


def lacking_at(sources: Iterable[Lacking], position: Position) -> tuple[int, ...]:
    """Those that are not whole at a cut at this position."""
    return tuple(one.source for one in sources if not is_whole(one, position))


def marked(before: Iterable[Lacking], looked: FillingLooked, tail: Position) -> tuple[Lacking, ...]:
    """What is known after a look: what ended keeps its mark, or gets one at `tail`.

    Nobody here knows which of two generations is the later one, so a mark follows the tail into another.
    """
    marks = {one.source: one.whole_at for one in before}
    found = [Lacking(source) for source in looked.going_on]
    for source in looked.ended:
        mark = marks.get(source)
        keeps = mark is not None and mark.generation == tail.generation
        fresh = None if tail == NOWHERE else tail
        found.append(Lacking(source, mark if keeps else fresh))
    return tuple(sorted(found, key=lambda one: one.source))
